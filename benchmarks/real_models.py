"""Real models on this host: build time and memory, start-up, and run time against ONNX Runtime.

    python benchmarks/real_models.py [--json] [MODEL ...]

Both engines get two threads and run in turn, A B A B …, in one process. There ONNX Runtime's
threads do not spin while they wait, which would take the cores from whoever runs next; since it may
be faster with spinning, it is also measured alone as it comes, and the better of its two medians
counts. The figure to quote is the ratio of the medians. Builds run as a user's do, each in a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))
import onnxruntime  # noqa: E402
from models import MODELS, fetch  # noqa: E402

import hetero_tvm  # noqa: E402
from hetero_tvm.run import complete_inputs  # noqa: E402

WARM_UP = 3


def build(name: str, artefact: Path) -> dict:
    """Build for `host` in a fresh process; the verb's own JSON."""
    flags = [word for text in MODELS[name].inputs for word in ("--input", text)]
    command = [sys.executable, "-m", "hetero_tvm.build", str(fetch(name)), "-t", "host"]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "-o", str(artefact), *flags, "--json"], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return {**json.loads(done.stdout), "wall_s": time.perf_counter() - started}


def start_up(artefact: Path) -> float:
    """Seconds from the shell's view for one run, kernel cache warm."""
    command = [sys.executable, "-m", "hetero_tvm.run", str(artefact), "--repeat", "1", "--json"]
    subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
        times.append(time.perf_counter() - started)
    return min(times)


def onnxruntime_run(name: str, inputs: dict, *, spinning: bool) -> Callable[[], object]:
    """One run of the model by ONNX Runtime with two threads, as a function."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    session = onnxruntime.InferenceSession(
        str(fetch(name)), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, inputs)


def median_ms(runs: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median time of each of `runs`, run in turn; the first rounds warm up and do not count."""
    times: list[list[float]] = [[] for _ in runs]
    for round_number in range(rounds + WARM_UP):
        for run, kept in zip(runs, times, strict=True):
            started = time.perf_counter()
            run()
            if round_number >= WARM_UP:
                kept.append((time.perf_counter() - started) * 1e3)
    return [statistics.median(kept) for kept in times]


def side_by_side(name: str, artefact: Path, rounds: int) -> dict:
    """Median milliseconds of the artefact and of ONNX Runtime."""
    model = hetero_tvm.load(artefact)
    inputs = complete_inputs({}, model.manifest, 0)
    tensors = model.feed(inputs)
    spinning_ms, *_ = median_ms([onnxruntime_run(name, inputs, spinning=True)], rounds)
    ours_ms, polite_ms = median_ms(
        [lambda: model.call(tensors), onnxruntime_run(name, inputs, spinning=False)], rounds
    )
    theirs_ms = min(spinning_ms, polite_ms)
    return {
        "ours_ms": ours_ms,
        "onnxruntime_ms": theirs_ms,
        "onnxruntime_in_turn_ms": polite_ms,
        "onnxruntime_alone_ms": spinning_ms,
        "ratio": ours_ms / theirs_ms,
    }


def main() -> int:
    """Measure the models named on the command line, all of them by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = []
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            artefact = Path(folder) / f"{name}.so"
            report = build(name, artefact)
            results.append(
                {
                    "model": name,
                    "inputs": MODELS[name].inputs,
                    "build_s": report["wall_s"],
                    "build_peak_mb": report["peak_memory_bytes"] / 1e6,
                    "allowed_peak_mb": 1000 + 4 * fetch(name).stat().st_size / 1e6,
                    "artefact_mb": artefact.stat().st_size / 1e6,
                    "start_up_s": start_up(artefact),
                    **side_by_side(name, artefact, args.rounds),
                }
            )
    if args.json:
        print(json.dumps({"schema_version": 1, "cases": results}, indent=2))
        return 0
    heads = ("build s", "peak MB", "allowed", "start s", "ours ms", "ORT ms", "ratio")
    print(f"{'model':<16}" + "".join(f"{head:>9}" for head in heads))
    for r in results:
        print(
            f"{r['model']:<16}{r['build_s']:>9.1f}{r['build_peak_mb']:>9.0f}"
            f"{r['allowed_peak_mb']:>9.0f}{r['start_up_s']:>9.2f}{r['ours_ms']:>9.2f}"
            f"{r['onnxruntime_ms']:>9.2f}{r['ratio']:>9.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
