"""Verb: where every operator would run and what that would cost, with every alternative.

python -m hetero_tvm.plan model.onnx --target snapdragon
"""

from __future__ import annotations

import argparse
import sys

from hetero_tvm import cli
from hetero_tvm.arguments import add_model_arguments, model_config

EXAMPLES = """\
examples:
  hetero-tvm plan encoder.onnx --target snapdragon \\
      --input input_ids=1x128 --input attention_mask=1x128
  hetero-tvm plan detector.onnx --target snapdragon-8-elite --input x=1x3x320x320 --estimate
  hetero-tvm plan detector.onnx --target host --input x=1x3x320x320 --json
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


def run(args: argparse.Namespace) -> int:
    """Plan and print."""
    from hetero_tvm import plan_report, report_plan
    from hetero_tvm.progress import Progress

    config = model_config(args, output=None)
    with Progress(quiet=args.quiet) as progress:
        report = plan_report.explain(config, progress, estimate=args.estimate)
    if args.json:
        cli.emit_json("plan", report.to_dict())
    else:
        cli.emit(report_plan.plan_summary(report, verbose=args.verbose > 0))
    return 0


if __name__ == "__main__":
    sys.exit(cli.verb_main("plan"))
