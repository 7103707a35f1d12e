"""Verb: time an artefact: warm-up, repetitions, spread, memory; minute by minute if asked."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hetero_tvm import __version__, cli, memory
from hetero_tvm.errors import BadInput
from hetero_tvm.system_state import machine, read_state

if TYPE_CHECKING:
    from hetero_tvm.loader import Fed, Model

EXAMPLES = """\
examples:
  hetero-tvm bench encoder.so
  hetero-tvm bench encoder.so --json > before.json        for `hetero-tvm compare`
  hetero-tvm bench detector.so --format markdown
  hetero-tvm bench detector.so --sustained 10m            minute by minute, as it grows warm

Only the call is timed: inputs are in device memory before it, and it ends when all devices are
done. Temperature, clocks and power are shown where the system shows them. Ctrl-C ends a sustained
run early; what was measured is printed.

exit codes: 0 fine, 2 bad input, 3 something is missing, 4 device
"""
FORMATS = ("text", "markdown", "csv", "json")
_LEAST_S = 2.0  # repetitions by default go on for so long, and are
_LEAST_RUNS = 20
_MOST_RUNS = 1000
_KEPT = 10_000  # single times in the JSON


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """What runs took, in ms."""

    runs: int
    mean: float
    p50: float
    p90: float
    sd: float
    min: float
    max: float


def times_of(ms: Sequence[float]) -> Times:
    """Of at least one run; `sd` is the sample's, 0 for one run."""
    array = np.asarray(ms)
    return Times(
        runs=len(array),
        mean=float(array.mean()),
        p50=float(np.percentile(array, 50)),
        p90=float(np.percentile(array, 90)),
        sd=float(array.std(ddof=1)) if len(array) > 1 else 0.0,
        min=float(array.min()),
        max=float(array.max()),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm bench`."""
    parser.add_argument("artefact", type=Path, help="what `hetero-tvm build` wrote")
    parser.add_argument("--warm-up", type=int, default=3, help="runs before (default 3)")
    parser.add_argument(
        "--repeat",
        type=int,
        help=f"timed runs (default: {_LEAST_S:g} s of them, at least {_LEAST_RUNS}; one where the "
        "NPU is simulated)",
    )
    parser.add_argument(
        "--sustained",
        metavar="TIME",
        help="run for so long, as in 90s, 10m or 1h, and show every minute; the result is the last",
    )
    parser.add_argument(
        "--every", metavar="TIME", default="1m", help="of --sustained: a row (default 1m)"
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="default text")
    parser.add_argument(
        "--inputs",
        action="append",
        default=[],
        metavar="FILE.npz | NAME=FILE.npy",
        help="inputs; what is not given is random",
    )
    parser.add_argument("--length", type=int, help="of random inputs, as for `run`")
    parser.add_argument("--seed", type=int, default=0, help="of random inputs (default 0)")
    parser.add_argument("--device", help="OpenCL device, by index or by part of its name")


def run(args: argparse.Namespace) -> int:
    """Load, warm up, time, print."""
    from hetero_tvm import bench_report, loader, runtime
    from hetero_tvm.run import complete_inputs, read_inputs

    for flag, value, least in (("--warm-up", args.warm_up, 0), ("--repeat", args.repeat, 1)):
        if value is not None and value < least:
            raise BadInput(f"{flag} {value}: at least {least}")
    if args.seed < 0:
        raise BadInput(f"--seed {args.seed}: at least 0")
    sustained_s = read_time(args.sustained, "--sustained") if args.sustained else None
    every_s = read_time(args.every, "--every")
    if sustained_s is not None and args.repeat is not None:
        raise BadInput("--sustained and --repeat exclude each other")
    if args.device is not None:
        runtime.configure(opencl_device=args.device)
    given = read_inputs(args.inputs)
    before = read_state()
    model = loader.load(args.artefact)
    fed = model.feed(complete_inputs(given, model.manifest, args.seed, args.length))
    first_ms = _timed(model, fed)
    loaded_from = time.monotonic()
    for _ in range(args.warm_up):
        model.call(fed)
    runtime.reset_counters()
    minutes: list[dict[str, Any]] = []
    if sustained_s is None:
        ms = _repeat(model, fed, args.repeat)
    else:
        minutes, ms = _sustain(lambda: _timed(model, fed), sustained_s, every_s, quiet=args.quiet)
    after = read_state()
    length = sum(piece.size for piece in fed.way) if fed.way else None
    times = times_of(ms)
    data = {
        "hetero_tvm": __version__,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "artefact": str(args.artefact),
        "model": model.manifest.model_name,
        "model_sha256": model.manifest.model_sha256,
        "target": model.manifest.target,
        "versions": dict(model.manifest.versions),
        "simulated": model.simulated,
        "machine": {**machine(), "opencl": runtime.device_name()},
        "length": length,
        "load_s": model.load_seconds,
        "first_run_ms": first_ms,
        "warm_up_runs": args.warm_up,
        "times_ms": dataclasses.asdict(times),
        "length_per_s": length / times.p50 * 1e3 if length else None,
        "peak_memory_bytes": memory.peak_bytes(),
        "artefact_bytes": args.artefact.stat().st_size,
        "thermal": {
            "loaded_s": time.monotonic() - loaded_from,
            "start": before.to_dict(),
            "end": after.to_dict(),
        },
        "minutes": minutes,
        "samples_ms": ms[-_KEPT:],
    }
    if args.json or args.format == "json":
        cli.emit_json("bench", data)
    elif not args.quiet:
        cli.emit(bench_report.RENDER[args.format](data))
    return 0


def read_time(text: str, flag: str) -> float:
    """Seconds of `90s`, `10m`, `1h`.

    Raises:
        BadInput: anything else, or nothing above 0.
    """
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        seconds = float(text[:-1]) * units[text[-1:]]
    except (KeyError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise BadInput(f"{flag} {text}: write a number and s, m or h, as in 90s or 10m")
    return seconds


def _timed(model: Model, fed: Fed) -> float:
    start = time.perf_counter()
    model.call(fed)
    return (time.perf_counter() - start) * 1e3


def _repeat(model: Model, fed: Fed, count: int | None) -> list[float]:
    if count is None and model.simulated:
        count = 1
    ms: list[float] = []
    start = time.perf_counter()
    while len(ms) < (count or _MOST_RUNS):
        ms.append(_timed(model, fed))
        long_enough = time.perf_counter() - start >= _LEAST_S and len(ms) >= _LEAST_RUNS
        if count is None and long_enough:
            break
    return ms


def _sustain(
    timed: Callable[[], float], seconds: float, every_s: float, *, quiet: bool
) -> tuple[list[dict[str, Any]], list[float]]:
    """A row for each stretch of `every_s`, and the single times of the last whole one."""
    rows: list[dict[str, Any]] = []
    last: list[float] = []
    start = time.monotonic()

    def close(ms: list[float]) -> None:
        nonlocal last
        last = ms
        state = read_state()
        at_s = time.monotonic() - start
        rows.append({"at_s": at_s, "times_ms": dataclasses.asdict(times_of(ms)), **state.to_dict()})
        warmth = f", {state.hottest_c:.0f} °C" if state.hottest_c is not None else ""
        cli.say(f"  {at_s:6.0f} s  p50 {rows[-1]['times_ms']['p50']:.3f} ms{warmth}", quiet=quiet)

    ms: list[float] = []
    try:
        while (now := time.monotonic() - start) < seconds:
            if ms and now >= every_s * (len(rows) + 1):
                close(ms)
                ms = []
            ms.append(timed())
    except KeyboardInterrupt:
        cli.say("interrupted: this is what was measured so far", quiet=quiet)
        if not ms and not rows:
            raise
    if ms and (not rows or len(ms) >= len(last) / 2):  # a short rest says little
        close(ms)
    return rows, last


if __name__ == "__main__":
    sys.exit(cli.verb_main("bench"))
