"""Verb: where every operator would run and what that would cost, with every alternative.

python -m hetero_tvm.plan model.onnx --target snapdragon
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hetero_tvm import cli
from hetero_tvm.config import DEVICES, DTYPES, BuildConfig
from hetero_tvm.errors import BadInput

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
    parser.add_argument("model", nargs="?", type=Path, help="ONNX file")
    parser.add_argument("-t", "--target", default="snapdragon", help="target name or TOML file")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=DIMS[:DTYPE]",
        help="fix an input's dimensions, as in input_ids=1x128:int64; once per input",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="storage type of weights and activations (default float32)",
    )
    parser.add_argument(
        "--devices",
        choices=DEVICES,
        default="gpu+npu",
        help="accelerators that the plan in detail uses (default both); totals are of all",
    )
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="ask Qualcomm's compiler what each NPU region takes, beside the prediction",
    )


def run(args: argparse.Namespace) -> int:
    """Plan and print."""
    if args.model is None:
        raise BadInput("no model given; usage: hetero-tvm plan MODEL.onnx --target TARGET")
    from hetero_tvm import frontend, plan_report, report_plan
    from hetero_tvm.progress import Progress

    config = BuildConfig(
        model=args.model,
        target=args.target,
        output=None,
        inputs={spec.name: spec for spec in map(frontend.parse_input_flag, args.input)},
        dtype=args.dtype,
        devices=args.devices,
    )
    with Progress(quiet=args.quiet) as progress:
        report = plan_report.explain(config, progress, estimate=args.estimate)
    if args.json:
        cli.emit_json("plan", report.to_dict())
    else:
        cli.emit(report_plan.plan_summary(report, verbose=args.verbose > 0))
    return 0


if __name__ == "__main__":
    sys.exit(cli.verb_main("plan"))
