"""Verb: time an artefact: warm-up, repetitions, spread, memory; minute by minute if asked."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hetero_tvm import __version__, cli
from hetero_tvm.errors import BadInput, ContextFull, WrongKindOfModel
from hetero_tvm.system_state import SystemState

if TYPE_CHECKING:
    from hetero_tvm.workload import LlmWorkload, Workload

EXAMPLES = """\
examples:
  hetero-tvm bench encoder.so
  hetero-tvm bench encoder.so --json > before.json        for `hetero-tvm compare`
  hetero-tvm bench detector.so --format markdown
  hetero-tvm bench detector.so --sustained 10m            minute by minute, as it grows warm
  hetero-tvm bench encoder.so --to ssh://me@board        timed there, where it is deployed
  hetero-tvm bench llm.so --prompt 256 --generate 64      tokens a second; a run is one answer

Only the call is timed: inputs are in device memory before it, and it ends when all devices are
done. Temperature, clocks and power are shown where the system shows them. Ctrl-C ends a sustained
run early; what was measured is printed.

exit codes: 0 fine, 2 bad input, 3 something is missing, 4 device
"""
FORMATS = ("text", "markdown", "csv", "json")
_LEAST_S = 2.0  # repetitions by default go on for so long, and are
_LEAST_RUNS = 20
_MOST_RUNS = 1000
_GENERATE = 32
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
    from hetero_tvm import workload_arguments

    workload_arguments.add(parser)
    parser.add_argument(
        "--generate",
        type=int,
        metavar="TOKENS",
        help=f"language model: tokens of an answer (default {_GENERATE})",
    )
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


def run(args: argparse.Namespace) -> int:
    """Load, warm up, time, print."""
    from hetero_tvm import workload

    for flag, value, least in (
        ("--warm-up", args.warm_up, 0),
        ("--repeat", args.repeat, 1),
        ("--generate", args.generate, 1),
    ):
        if value is not None and value < least:
            raise BadInput(f"{flag} {value}: at least {least}")
    sustained_s = read_time(args.sustained, "--sustained") if args.sustained else None
    every_s = read_time(args.every, "--every")
    if sustained_s is not None and args.repeat is not None:
        raise BadInput("--sustained and --repeat exclude each other")
    count = args.generate
    if workload.is_llm(args.artefact):
        with workload.open_llm(args, "prefill") as llm:
            count = _GENERATE if count is None else count
            check_room(llm, count)
            answers: list[Answer] = []
            timed = functools.partial(_answer, llm, count, answers)
            return _run(args, llm, timed, answers, sustained_s, every_s)
    if count is not None:
        raise WrongKindOfModel(f"--generate: {args.artefact} is no language model")
    with workload.open_model(args) as model:
        return _run(args, model, model.measure, [], sustained_s, every_s)


def _run(
    args: argparse.Namespace,
    work: Workload,
    timed: Callable[[], float],
    answers: list[Answer],
    sustained_s: float | None,
    every_s: float,
) -> int:
    """Time `work` as the flags say; `answers`: what `timed` notes of a language model's."""
    from hetero_tvm import bench_report

    where = work.surroundings
    before = where.state()
    first_ms = timed()
    loaded_from = time.monotonic()
    for _ in range(args.warm_up):
        timed()
    minutes: list[dict[str, Any]] = []
    if sustained_s is None:
        count = 1 if args.repeat is None and work.simulated else args.repeat
        ms = _repeat(timed, count)
    else:
        minutes, ms = _sustain(timed, where.state, sustained_s, every_s, quiet=args.quiet)
    after = where.state()
    length = None if answers else work.length
    times = times_of(ms)
    manifest = work.manifest
    data = {
        "hetero_tvm": __version__,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "artefact": str(args.artefact),
        "model": manifest.model_name,
        "model_sha256": manifest.model_sha256,
        "target": manifest.target,
        "versions": dict(manifest.versions),
        "simulated": work.simulated,
        "machine": {**where.machine(), "opencl": work.gpu_name()},
        "length": length,
        "load_s": work.load_seconds,
        "first_run_ms": first_ms,
        "warm_up_runs": args.warm_up,
        "times_ms": dataclasses.asdict(times),
        "length_per_s": length / times.p50 * 1e3 if length else None,
        "llm": llm_figures(answers[-len(ms) :]) if answers else None,
        "peak_memory_bytes": where.peak_bytes(),
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
    else:
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


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer of a language model, in ms."""

    prompt: int  # tokens
    prefill: float
    decode: tuple[float, ...]  # of each token behind the first, which prefilling gives


def check_room(work: LlmWorkload, count: int) -> None:
    """An answer of `count` tokens fits behind the prompt.

    Raises:
        BadInput: it does not.
    """
    room = work.capacity - len(work.prompt)
    if count > room:
        raise ContextFull(
            f"--generate {count}: behind {len(work.prompt)} tokens of prompt there is room for "
            f"{room} in this artefact"
        )


def _answer(work: LlmWorkload, count: int, answers: list[Answer]) -> float:
    """Time one answer, greedy and without an end; noted in `answers`."""
    prefill, decode = work.answer(count)
    answers.append(Answer(len(work.prompt), prefill, decode))
    return prefill + sum(decode)


def llm_figures(answers: Sequence[Answer]) -> dict[str, Any]:
    """Tokens a second over answers of one length, by medians."""
    prefill = times_of([answer.prefill for answer in answers])
    each = [ms for answer in answers for ms in answer.decode]
    decode = times_of(each) if each else None
    prompt = answers[0].prompt
    return {
        "prompt_tokens": prompt,
        "generated_tokens": len(answers[0].decode) + 1,
        "prefill_ms": dataclasses.asdict(prefill),
        "decode_ms": dataclasses.asdict(decode) if decode else None,
        "prefill_tokens_per_s": prompt / prefill.p50 * 1e3,
        "decode_tokens_per_s": 1e3 / decode.p50 if decode else None,
    }


def _repeat(timed: Callable[[], float], count: int | None) -> list[float]:
    ms: list[float] = []
    start = time.perf_counter()
    while len(ms) < (count or _MOST_RUNS):
        ms.append(timed())
        long_enough = time.perf_counter() - start >= _LEAST_S and len(ms) >= _LEAST_RUNS
        if count is None and long_enough:
            break
    return ms


def _sustain(
    timed: Callable[[], float],
    look: Callable[[], SystemState],
    seconds: float,
    every_s: float,
    *,
    quiet: bool,
) -> tuple[list[dict[str, Any]], list[float]]:
    """A row for each stretch of `every_s`, and the single times of the last whole one."""
    rows: list[dict[str, Any]] = []
    last: list[float] = []
    start = time.monotonic()

    def close(ms: list[float]) -> None:
        nonlocal last
        last = ms
        state = look()
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
