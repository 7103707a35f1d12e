"""Verb: what a model is made of, what each device would take of it, and the memory it needs."""

from __future__ import annotations

import argparse
import collections
import sys
from typing import TYPE_CHECKING, Any

from hetero_tvm import cli
from hetero_tvm.arguments import add_onnx_arguments, onnx_config
from hetero_tvm.errors import BadInput

if TYPE_CHECKING:
    from hetero_tvm.inspection import Inspection

EXAMPLES = """\
examples:
  hetero-tvm inspect model.onnx
  hetero-tvm inspect model.onnx --input x=1x3x320x320 --target snapdragon-8-gen-3
  hetero-tvm inspect model.onnx --require npu=90%         a gate: exit code 1 where it is less
  hetero-tvm inspect model.onnx --json | jq '.operators[] | select(.declined.npu)'

Nothing is compiled. Shares are of multiply-accumulates; of operators where nothing is multiplied.

exit codes: 0 fine, 1 a --require does not hold, 2 bad input, 3 something is missing
"""
_NODES_SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm inspect`."""
    add_onnx_arguments(parser)
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="DEVICE=SHARE",
        help="fail where the device takes less of the work, as in npu=90%%",
    )


def run(args: argparse.Namespace) -> int:
    """Inspect, print, judge."""
    required = [read_requirement(text) for text in args.require]
    config = onnx_config(args, output=None, check=False)
    from hetero_tvm.inspection import inspect_model
    from hetero_tvm.progress import Progress

    with Progress(quiet=args.quiet) as progress:
        found = inspect_model(config, progress)
    failed = [
        f"{device} takes {found.share(device):.1%}, required are {share:.1%}"
        for device, share in required
        if found.share(device) < share
    ]
    if args.json:
        cli.emit_json("inspect", {**found.to_dict(), "failed": failed, "held": not failed})
    else:
        cli.emit(_text(found, verbose=args.verbose > 0))
    for line in failed:
        cli.say(f"hetero-tvm inspect: {line}")
    return 1 if failed else 0


def read_requirement(text: str) -> tuple[str, float]:
    """Device and share of `npu=90%` or `npu=0.9`.

    Raises:
        BadInput: anything else.
    """
    device, _, share = text.partition("=")
    try:
        least = float(share[:-1]) / 100 if share.endswith("%") else float(share)
    except ValueError:
        least = -1.0
    if device not in ("npu", "gpu") or not 0 <= least <= 1:
        raise BadInput(f"--require {text}: write npu or gpu and a share, as in npu=90%")
    return device, least


def _text(found: Inspection, *, verbose: bool) -> str:
    lines = [f"{found.model.name} for {found.target}, {found.dtype}"]
    for title, specs in (("input", found.inputs), ("output", found.outputs)):
        for spec in specs:
            shape = "x".join(map(str, spec.shape)) or "scalar"
            lines.append(f"{title:<9}{spec.name} {shape} {spec.dtype}")
    lines += [
        f"{found.parameters:,} parameters, {found.macs:,} MACs a run, "
        f"{len(found.operators)} operators",
        f"NPU takes {found.share('npu'):.1%} of the work, GPU {found.share('gpu'):.1%}",
        "",
        f"{'operator':<24}{'count':>6}{'MACs':>16}{'weights MB':>12}  NPU    GPU",
    ]
    kinds: dict[str, list[Any]] = collections.defaultdict(list)
    for operator in found.operators:
        kinds[operator.op].append(operator)
    for op, operators in sorted(kinds.items(), key=lambda item: -sum(o.macs for o in item[1])):
        taken = {d: sum(d not in o.declined for o in operators) for d in ("npu", "gpu")}
        words = "  ".join(
            f"{'all' if count == len(operators) else count or 'none':<5}"
            for count in taken.values()
        )
        weights = sum(operator.weight_bytes for operator in operators) / 1e6
        lines.append(
            f"{op.removeprefix('relax.'):<24}{len(operators):>6}"
            f"{sum(o.macs for o in operators):>16,}{weights:>12.2f}  {words}"
        )
    lines += ["", *_reasons(found, verbose=verbose), *_memory(found)]
    return "\n".join(lines)


def _reasons(found: Inspection, *, verbose: bool) -> list[str]:
    declined: dict[tuple[str, str, str], list[str]] = collections.defaultdict(list)
    for operator in found.operators:
        for device, why in operator.declined.items():
            declined[device, operator.op, why].append(operator.node)
    lines = []
    for (device, op, why), nodes in declined.items():
        lines.append(f"{device.upper()} declines {op.removeprefix('relax.')}: {why}")
        shown = nodes if verbose else nodes[:_NODES_SHOWN]
        more = len(nodes) - len(shown)
        lines.append(f"    {', '.join(shown)}" + (f" and {more} more" if more else ""))
    return [*lines, ""] if lines else []


def _memory(found: Inspection) -> list[str]:
    memory = found.memory
    lines = [
        f"weights {memory.weights / 1e6:.1f} MB, at most {memory.activations / 1e6:.1f} MB of "
        "activations at once",
        f"weights that the NPU would hold {memory.npu_weights / 1e6:.1f} MB, the GPU "
        f"{memory.gpu_weights / 1e6:.1f} MB, where each takes all that it can; `plan` says it of a "
        "plan",
        f"building will take about {memory.build / 1e9:.1f} GB, loading about "
        f"{memory.load / 1e9:.1f} GB (estimated from builds of other models)",
    ]
    if memory.npu_window is not None and memory.npu_parts is not None and memory.npu_parts > 1:
        lines.append(
            f"the NPU's weights do not fit into the {memory.npu_window / 1e9:.2f} GB that one of "
            f"its processes can address: `build` cuts them into {memory.npu_parts} regions or more"
        )
    return lines


if __name__ == "__main__":
    sys.exit(cli.verb_main("inspect"))
