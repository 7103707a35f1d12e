"""Verb: where every operator would run and what that would cost, with every alternative.

python -m hetero_tvm.plan model.onnx --target snapdragon
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from hetero_tvm import cli
from hetero_tvm.arguments import add_model_arguments, model_config, read_lengths

if TYPE_CHECKING:
    from hetero_tvm.plan_report import PlanReport

EXAMPLES = """\
examples:
  hetero-tvm plan encoder.onnx --target snapdragon \\
      --input input_ids=1x128 --input attention_mask=1x128
  hetero-tvm plan detector.onnx --target snapdragon-8-elite --input x=1x3x320x320 --estimate
  hetero-tvm plan detector.onnx --target host --input x=1x3x320x320 --json
  hetero-tvm plan encoder.onnx --target snapdragon --length 1,64,256,300 \\
      --input input_ids=1xL --input attention_mask=1xL
  hetero-tvm plan encoder.onnx --target my_soc.toml --objective energy --gpu-share 60% \\
      --input input_ids=1x128 --input attention_mask=1x128
  hetero-tvm build --target help        # lists the targets

exit codes: 0 planned, 2 bad input, 3 something is missing on this machine, 5 our bug
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm plan`."""
    add_model_arguments(parser)
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="ask Qualcomm's compiler what each NPU region takes, beside the prediction",
    )
    parser.add_argument(
        "--length",
        metavar="L1,L2,…",
        help="plan once for each length, with the dimensions that --input writes as L at it",
    )


def run(args: argparse.Namespace) -> int:
    """Plan and print."""
    from hetero_tvm import report_plan

    if args.length is None:
        report = _report(args, None)
        if args.json:
            cli.emit_json("plan", report.to_dict())
        else:
            cli.emit(report_plan.plan_summary(report, verbose=args.verbose > 0))
        return 0
    reports = {length: _report(args, length) for length in read_lengths(args.length)}
    if args.json:
        entries = [{"length": n, **report.to_dict()} for n, report in reports.items()]
        cli.emit_json("plan", {"lengths": entries})
    elif len(reports) == 1:
        (report,) = reports.values()
        cli.emit(report_plan.plan_summary(report, verbose=args.verbose > 0))
    else:
        cli.emit(report_plan.lengths_table(reports))
    return 0


def _report(args: argparse.Namespace, length: int | None) -> PlanReport:
    from hetero_tvm import plan_report
    from hetero_tvm.progress import Progress

    config = model_config(args, output=None, length=length)
    with Progress(quiet=args.quiet) as progress:
        return plan_report.explain(config, progress, estimate=args.estimate)


if __name__ == "__main__":
    sys.exit(cli.verb_main("plan"))
