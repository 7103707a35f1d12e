"""A language model on both devices against the better one alone, each held to one core.

python benchmarks/llm_speedup.py [FOLDER] [--prompt 256] [--rounds N] [--json]

FOLDER: an ONNX language model (default: SmolLM2-135M in float32, `examples/llm_forms.py`). It is
built for the GPU role, the NPU role and both, loaded into one process, and each step is run in
turns by all three: a prompt of 256 tokens, and one token behind it. Times, ratio and efficiency are
those of `hetero_speedup.py`, which see.

memory      what two cores read of memory together, over twice what one of them reads alone, in the
            same rounds, at most 1. About this efficiency is left to a step that reads more than it
            computes, such as one token's, where each device alone draws as much as the reader
            does; where a device alone draws less, more is left. With `cores` below 1.75 it says
            nothing, as the rest of the row does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cores import Readers
from hetero_speedup import ONE_CORE_EACH, ROOT, in_turns, ratios

sys.path[:0] = [str(ROOT), str(ROOT / "examples")]
MODES = {"gpu": "gpu", "npu": "npu", "split": "gpu+npu"}  # and what `--devices` calls it


def measure(folder: Path, prompt: int, rounds: int) -> dict[str, Any]:
    """Both steps in this process: medians of every mode, in ms, and what follows from them."""
    import hetero_tvm

    tokens = np.random.default_rng(7).integers(10, 1000, prompt).tolist()
    steps: dict[str, Any] = {}
    readers = Readers()
    with tempfile.TemporaryDirectory() as scratch:
        sessions = {}
        for mode, devices in MODES.items():
            artefact = Path(scratch) / f"{mode}.so"
            build = [sys.executable, "-m", "hetero_tvm", "build", str(folder), "--target", "host"]
            flags = ["--devices", devices, "--context", str(2 * prompt), "-o", str(artefact), "-q"]
            subprocess.run([*build, *flags], check=True)
            sessions[mode] = hetero_tvm.load_llm(artefact)

        def prefill(session: Any) -> Callable[[], float]:
            def run() -> float:
                session.reset()
                begin = time.perf_counter()
                session.prefill(tokens)
                return (time.perf_counter() - begin) * 1e6

            return run

        def decode(session: Any) -> Callable[[], float]:
            session.reset()
            session.prefill(tokens)

            def run() -> float:
                session.reset(prompt)
                begin = time.perf_counter()
                session.decode(tokens[0])
                return (time.perf_counter() - begin) * 1e6

            return run

        for name, step in (("prefill", prefill), ("decode", decode)):
            runs = {mode: step(s) for mode, s in sessions.items()}
            timed = in_turns({**runs, "one": readers.one, "both": readers.both}, rounds)
            ms = {mode: timed.us[mode] / 1e3 for mode in MODES}
            steps[name] = {
                "ms": ms,
                "memory": min(1.0, timed.us["one"] / timed.us["both"]),
                "cores": timed.cores,
                "rounds": timed.counted,
                **ratios(ms),
            }
    return {"model": folder.name, "prompt": prompt, "steps": steps}


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    missing = {name: value for name, value in ONE_CORE_EACH.items() if name not in os.environ}
    if missing:  # the devices read them when they start
        return subprocess.call([sys.executable, *sys.argv], env={**os.environ, **missing})
    if args.folder is None:
        import llm_forms

        args.folder = llm_forms.make("genai-fp32")
    result = measure(args.folder, args.prompt, args.rounds)
    if args.json:
        print(json.dumps(result, indent=2))
        return 0
    print(f"{result['model']}, prompt {args.prompt}, one core each; medians in ms")
    print(
        f"{'step':<9}{'gpu':>9}{'npu':>9}{'split':>9}{'ratio':>8}{'efficiency':>12}{'memory':>8}{'cores':>7}"
    )
    for name, row in result["steps"].items():
        ms = "".join(f"{row['ms'][mode]:9.2f}" for mode in MODES)
        shares = f"{row['efficiency']:12.2f}{row['memory']:8.2f}{row['cores']:7.2f}"
        print(f"{name:<9}{ms}{row['ratio']:8.2f}{shares}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
