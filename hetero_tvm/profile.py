"""Verb: record runs of an artefact: one timeline of CPU, GPU and NPU, and where the time goes."""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero_tvm import cli
from hetero_tvm.errors import BadInput, CannotWrite, WrongKindOfModel
from relay_passes.plan import Plan
from target_specs.loader import SpecError, load_spec
from target_specs.spec import SocSpec

if TYPE_CHECKING:
    from hetero_tvm.bundle import Manifest
    from hetero_tvm.profile_summary import Run, Summary
    from hetero_tvm.workload import Workload

EXAMPLES = """\
examples:
  hetero-tvm profile encoder.so
  hetero-tvm profile encoder.so --runs 20 --trace t.json    open t.json at https://ui.perfetto.dev
  hetero-tvm profile detector.so --json | jq .summary.idle_us
  hetero-tvm profile encoder.so --to ssh://me@board
  hetero-tvm profile llm.so --phase prefill --prompt 256

GPU kernels have the driver's times, mapped to the host's clock. A call that computes several
operators is timed as one; its time is shared out among them as the plan predicted (marked ~).

exit codes: 0 fine, 2 bad input, 3 something is missing, 4 device
"""
_WARM_UP = 3
_ROWS = 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm profile`."""
    from hetero_tvm import workload_arguments

    workload_arguments.add(parser)
    parser.add_argument(
        "--phase",
        choices=("prefill", "decode"),
        help="language model: the prompt, or one token behind it (default decode)",
    )
    parser.add_argument("--runs", type=int, default=10, help="to record (default 10)")
    parser.add_argument("--trace", type=Path, metavar="FILE.json", help="write the timeline")


def run(args: argparse.Namespace) -> int:
    """Record, sum up, print, write."""
    from hetero_tvm import workload
    from hetero_tvm.run import check_save

    if args.runs < 1:
        raise BadInput(f"--runs {args.runs}: at least 1")
    if args.trace is not None:
        check_save(args.trace, [args.artefact], flag="--trace")
    if workload.is_llm(args.artefact):
        with workload.open_llm(args, args.phase or "decode") as llm:
            return _run(args, llm)
    if args.phase is not None:
        raise WrongKindOfModel(f"--phase: {args.artefact} is no language model")
    with workload.open_model(args) as model:
        return _run(args, model)


def _run(args: argparse.Namespace, work: Workload) -> int:
    from hetero_tvm.lanes import recorded_lanes
    from hetero_tvm.profile_summary import runs_of, summarise

    manifest = work.manifest
    recorded = Recorded(work, args.runs)
    runs = runs_of(recorded.events, recorded.bounds)
    summary = summarise(
        runs, manifest.calls, plan_of(manifest, runs[0]), spec_of(manifest), manifest.dtype
    )
    provenance = "measured" + (
        "; the NPU is simulated, its times are the simulator's" if work.simulated else ""
    )
    data = {
        "artefact": str(args.artefact),
        "library_sha256": manifest.library_sha256,
        "target": manifest.target,
        "functions": list(runs[0].functions),
        "length": work.length,
        "provenance": provenance,
        "runs": args.runs,
        "plain_run_us": recorded.plain_us,
        "events": len(recorded.events),
        "lost_events": recorded.lost,
        "summary": summary.to_dict(),
        "timeline": recorded_lanes(runs, manifest.calls, provenance),
    }
    if args.trace is not None:
        from hetero_tvm.profile_trace import recorded_trace

        title = f"{args.artefact.name} for {manifest.target}"
        document = recorded_trace(runs, manifest.calls, title, provenance)
        document["otherData"]["profile"] = data  # what `report --profile` reads
        write_trace(args.trace, document)
        cli.say(f"wrote {args.trace}; open it at https://ui.perfetto.dev", quiet=args.quiet)
    if args.json:
        cli.emit_json("profile", data)
    else:
        cli.emit(_text(data, summary, rows=None if args.verbose else _ROWS))
    return 0


class Recorded:
    """Runs of a workload, first unrecorded, then recorded, `count` of each."""

    def __init__(self, work: Workload, count: int) -> None:
        for _ in range(_WARM_UP):
            work.measure()
        self.plain_us = statistics.median(work.measure() for _ in range(count)) * 1e3
        recording = work.record(count)
        self.events, self.lost = recording.events, recording.lost
        self.bounds = list(recording.bounds)
        if self.lost:
            raise BadInput(
                f"--runs {count}: {self.lost} events did not fit; record fewer runs at once"
            )


def plan_of(manifest: Manifest, run_: Run) -> Plan:
    """The plan of the function that ran; of several, the one that did most of the work."""
    plans = {variant.function: variant.plan for variant in manifest.variants}
    if not plans:
        return Plan.from_json(json.dumps(manifest.plan))
    ((name, _),) = collections.Counter(run_.functions).most_common(1)
    return Plan.from_json(json.dumps(plans[name]))


def spec_of(manifest: Manifest) -> SocSpec | None:
    """The target's spec as it is shipped; None where the target was a file of the user's."""
    try:
        return load_spec(manifest.target)
    except SpecError:
        return None


def write_trace(path: Path, document: dict[str, Any]) -> None:
    """The trace as JSON, whole or not at all."""
    from hetero_tvm.bundle import whole_file

    try:
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(document))
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error


def _text(data: dict[str, Any], summary: Summary, rows: int | None) -> str:
    total = summary.run_us
    lines = [
        f"target   {data['target']} ({data['provenance']})",
        f"run      {total / 1e3:.3f} ms recorded, {data['plain_run_us'] / 1e3:.3f} ms without "
        f"recording; medians of {data['runs']} runs",
        "busy     "
        + ", ".join(
            f"{device.upper()} {us / 1e3:.3f} ms ({us / total:.0%})"
            for device, us in summary.busy_us.items()
            if us
        ),
        f"overlap  GPU and NPU at once {summary.overlap_us / 1e3:.3f} ms "
        f"({summary.overlap_us / total:.0%})",
    ]
    for device, causes in summary.idle_us.items():
        said = ", ".join(
            f"{cause} {us / 1e3:.3f} ms"
            for cause, us in sorted(causes.items(), key=lambda item: -item[1])
        )
        lines.append(f"{device.upper()} idle {said}")
    lines += ["", f"{'device':<7}{'call':<34}{'µs':>9}{'share':>7}{'GFLOP/s':>9}{'GB/s':>7}  limit"]
    slowest = sorted(summary.calls, key=lambda row: -row.us)
    for row in slowest[:rows]:
        flops = f"{row.gflops:.1f}" if row.gflops is not None else "-"
        limit = f"{row.of_limit:.0%} of {row.limited_by}" if row.of_limit is not None else "-"
        lines.append(
            f"{row.call.device:<7}{row.call.symbol[:33]:<34}{row.us:>9.1f}{row.share:>7.1%}"
            f"{flops:>9}{row.gbps:>7.2f}  {limit}"
        )
        if row.call.about:
            more = len(row.call.operators) - 1
            lines.append(
                f"{'':<9}{row.call.about[-70:]}" + (f" and {more} more" if more > 0 else "")
            )
    if rows is not None and len(slowest) > rows:
        lines.append(f"… and {len(slowest) - rows} more calls; -v shows all")
    return "\n".join([*lines, "", *_operator_lines(summary)])


def _operator_lines(summary: Summary) -> list[str]:
    """Times by kind of operator and device."""
    kinds: dict[tuple[str, str], list[Any]] = collections.defaultdict(list)
    for operator in summary.operators:
        kinds[operator.op, operator.device].append(operator)
    lines = [f"{'device':<7}{'operator':<24}{'count':>6}{'µs':>11}{'share':>8}"]
    for (op, device), found in sorted(
        kinds.items(), key=lambda item: -sum(operator.us for operator in item[1])
    ):
        us, share = sum(o.us for o in found), sum(o.share for o in found)
        mark = " ~" if any(o.apportioned for o in found) else ""
        lines.append(
            f"{device:<7}{op.removeprefix('relax.'):<24}{len(found):>6}{us:>11.1f}{share:>8.1%}"
            f"{mark}"
        )
    return lines


if __name__ == "__main__":
    sys.exit(cli.verb_main("profile"))
