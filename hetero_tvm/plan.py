"""Verb: where every operator would run and what that would cost, with every alternative.

python -m hetero_tvm.plan model.onnx --target snapdragon
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hetero_tvm import cli
from hetero_tvm.arguments import (
    add_model_arguments,
    add_step_arguments,
    is_folder,
    model_config,
    read_lengths,
    read_span,
    read_steps,
)
from hetero_tvm.errors import BadInput

if TYPE_CHECKING:
    from hetero_tvm.config import BuildConfig
    from hetero_tvm.plan_report import PlanReport

EXAMPLES = """\
examples:
  hetero-tvm plan encoder.onnx --target snapdragon \\
      --input input_ids=1x128 --input attention_mask=1x128
  hetero-tvm plan detector.onnx --target snapdragon-8-elite --input x=1x3x320x320 --estimate
  hetero-tvm plan detector.onnx --target host --input x=1x3x320x320 --json
  hetero-tvm plan encoder.onnx --target snapdragon --length 1,64,256,300 \\
      --input input_ids=1xL --input attention_mask=1xL
  hetero-tvm plan encoder.onnx --target host --length 1..512 \\
      --input input_ids=1xL --input attention_mask=1xL
  hetero-tvm plan encoder.onnx --target my_soc.toml --objective energy --gpu-share 60% \\
      --input input_ids=1x128 --input attention_mask=1x128
  hetero-tvm plan model_folder/ --target snapdragon --prefill 128,512   # a language model's steps
  hetero-tvm build --target help        # lists the targets
  hetero-tvm plan --target snapdragon-8-gen-3 --dtype float16 --plot products.png

exit codes: 0 planned, 2 bad input, 3 something is missing on this machine, 5 our bug
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm plan`."""
    add_model_arguments(parser)
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="no model: draw what GPU, NPU and both take for two large products, over the "
        "sequence length; with --estimate by Qualcomm's estimates (minutes, then kept)",
    )
    add_step_arguments(
        parser,
        "plan once for each length",
        "which variants `build` would make for all of these lengths, and why",
    )


def run(args: argparse.Namespace) -> int:
    """Plan and print."""
    from hetero_tvm import report_plan

    if args.plot is not None:
        return _plot(args)
    if is_folder(args):
        return _language_model(args)
    if args.length is None:
        report = _report(args, None)
        if args.json:
            cli.emit_json("plan", report.to_dict())
        else:
            cli.emit(report_plan.plan_summary(report, verbose=args.verbose > 0))
        return 0
    ends = read_span(args.length)
    if ends is not None:
        return _span(args, ends)
    reports = {}
    for length in read_lengths(args.length):
        reports[length] = _report(args, length)
        args.reprofile = False  # once is enough
    if args.json:
        entries = [{"length": n, **report.to_dict()} for n, report in reports.items()]
        cli.emit_json("plan", {"lengths": entries})
    elif len(reports) == 1:
        (report,) = reports.values()
        cli.emit(report_plan.plan_summary(report, verbose=args.verbose > 0))
    else:
        cli.emit(report_plan.lengths_table(reports))
    return 0


def _span(args: argparse.Namespace, ends: tuple[int, int]) -> int:
    """The variants that a build for all lengths of a range has, and what was tried."""
    from hetero_tvm import between, report_between
    from hetero_tvm.progress import Progress

    def at(length: int) -> BuildConfig:
        return model_config(args, output=None, length=length)

    with Progress(quiet=args.quiet) as progress:
        chosen = between.choose_for(between.Span(*ends), at, progress=progress)
    if args.json:
        cli.emit_json("plan", chosen.to_dict())
    else:
        cli.emit(report_between.table(chosen))
    return 0


def _language_model(args: argparse.Namespace) -> int:
    """Every step of a folder's model; with -v also the operators of each."""
    from hetero_tvm import plan_report, report_plan
    from hetero_tvm.llm_steps import step_configs
    from hetero_tvm.progress import Progress

    configs = step_configs(model_config(args, output=None), *read_steps(args))
    reports: dict[int, PlanReport] = {}
    for rows, config in configs.items():
        with Progress(quiet=args.quiet) as progress:
            progress.note(f"{rows} new token{'s' if rows > 1 else ''}")
            once = dataclasses.replace(config, reprofile=args.reprofile and not reports)
            reports[rows] = plan_report.explain(once, progress)
    if args.json:
        steps = [{"tokens": rows, **report.to_dict()} for rows, report in reports.items()]
        cli.emit_json("plan", {"steps": steps})
        return 0
    if args.verbose > 0:
        for rows, report in reports.items():
            cli.emit(f"{rows} new tokens\n{report_plan.plan_summary(report, verbose=False)}\n")
    cli.emit(report_plan.lengths_table(reports, title="tokens"))
    return 0


def _plot(args: argparse.Namespace) -> int:
    """The picture of products; no model is planned."""
    from hetero_tvm import compiler, plan_plot
    from hetero_tvm.config import default_cache_dir
    from hetero_tvm.costs import with_estimates
    from hetero_tvm.progress import Progress

    if args.model is not None or args.length is not None:
        raise BadInput("--plot shows products of the target, without a model; leave the rest away")
    plan_plot.check(args.plot)
    with Progress(quiet=args.quiet) as progress:
        progress.begin({"plot": 1.0})
        progress.step("plot")
        cache_dir = default_cache_dir()
        costs = compiler.target_costs(
            args.target, progress, cache_dir=cache_dir, reprofile=args.reprofile
        )
        if args.estimate:
            products = plan_plot.products(args.dtype)
            costs = with_estimates(costs, products, cache_dir=cache_dir, progress=progress.note)
        target = costs.spec.name
        series = [
            plan_plot.product_series(costs, depth, columns, args.dtype)
            for depth, columns in plan_plot.WEIGHTS
        ]
        plan_plot.draw(args.plot, target, args.dtype, series)
    if args.json:
        data = [dataclasses.asdict(one) for one in series]
        cli.emit_json("plan", {"target": target, "plot": str(args.plot), "products": data})
    else:
        cli.emit(f"wrote {args.plot}")
    return 0


def _report(args: argparse.Namespace, length: int | None) -> PlanReport:
    from hetero_tvm import plan_report
    from hetero_tvm.progress import Progress

    config = model_config(args, output=None, length=length)
    with Progress(quiet=args.quiet) as progress:
        return plan_report.explain(config, progress)


if __name__ == "__main__":
    sys.exit(cli.verb_main("plan"))
