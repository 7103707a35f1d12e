"""Build a real sentence encoder for this host's stand-ins of GPU and NPU, run it, compare it.

    make demo            or            python examples/encoder/demo.py

The model is paraphrase-MiniLM-L3-v2 with its real weights. First as the planner wants it on this
host (its two stand-ins are the same silicon, so that may well be one of them); then with each
accelerator made to take all that it can, the other doing the rest; then for a phone, whose NPU is
simulated here. Every step is a command, which is shown, so that it can be typed
again with another model.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from models import CACHE, MODELS, fetch

PHONE = "snapdragon-8-gen-3"
VARIANTS = (  # target, devices, show in full which operator went where and why
    ("host", "gpu+npu", True),  # what the planner expects to be fastest
    ("host", "npu", True),  # the NPU takes what it can, the GPU the rest
    ("host", "gpu", False),
    (PHONE, "gpu+npu", False),
)


def hetero_tvm(*words: str, show: bool = True, echo: bool = True) -> str:
    """Run one verb as a user does; its stdout. A failure ends the demo with the verb's code."""
    if show:
        print(f"\n$ hetero-tvm {shlex.join(words)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "hetero_tvm", *words], stdout=subprocess.PIPE, text=True
    )
    if echo or done.returncode:
        print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def main() -> int:
    """The whole demo."""
    print("fetching paraphrase-MiniLM-L3-v2 …", flush=True)
    model = str(fetch("minilm"))
    inputs = [word for text in MODELS["minilm"].inputs for word in ("--input", text)]
    rows = []
    for target, devices, in_full in VARIANTS:
        artefact = str(CACHE.parent / f"minilm-{target}-{devices}.so")
        build = ("build", model, "-t", target, "-o", artefact, *inputs, "--devices", devices)
        compare = ("run", artefact, "--compare", model)
        if in_full:
            hetero_tvm(*build)
            hetero_tvm(*compare)
        built = json.loads(hetero_tvm(*build, "--json", "-q", show=not in_full, echo=False))
        ran = json.loads(hetero_tvm(*compare, "--json", show=not in_full, echo=False))
        rows.append(row(target, devices, built, ran))
    print("\nwhat each build does in one run:")
    print(HEADER, *rows, sep="\n")
    return 0


HEADER = (
    f"{'target':<20}{'devices':<9}{'GPU kernels':>12}{'NPU regions':>12}{'MACs on NPU':>12}"
    f"{'bytes copied':>13}{'rel. error':>11}{'ms':>10}"
)


def row(target: str, devices: str, built: dict, ran: dict) -> str:
    """One line of the closing table."""
    macs, per_run = built["placement"]["macs"], ran["per_run"]
    worst = max(output["relative_error"] for output in ran["outputs"])
    time = "simulated" if ran["simulated"] else f"{ran['run_ms']['median']:.2f}"
    return (
        f"{target:<20}{devices:<9}{per_run['kernel_launches']:>12.0f}{per_run['npu_runs']:>12.0f}"
        f"{macs['npu'] / sum(macs.values()):>12.0%}{per_run['bytes_copied']:>13.0f}"
        f"{worst:>11.1e}{time:>10}"
    )


if __name__ == "__main__":
    sys.exit(main())
