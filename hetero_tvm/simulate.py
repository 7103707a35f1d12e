"""Verb: a planned program on a model of the SoC, event by event: four modes side by side.

python -m hetero_tvm.simulate --target snapdragon-8-gen-3 --llm llama-3-8b --prompt 256 --decode 32
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hetero_tvm import cli
from hetero_tvm.arguments import add_onnx_arguments, onnx_config
from hetero_tvm.errors import BadInput, BadOutputPath, CannotWrite
from hetero_tvm.progress import Progress

if TYPE_CHECKING:
    from hetero_tvm.config import BuildConfig
    from hetero_tvm.simulation import Conditions
    from hetero_tvm.simulator import Run

EXAMPLES = """\
examples:
  hetero-tvm simulate --target snapdragon-8-gen-3 --llm llama-3-8b --prompt 256 --decode 32
  hetero-tvm simulate --llm llama-3-8b --prompt 300 --npu-policy padding   # or online, pipe, plan
  hetero-tvm simulate --llm internlm2-1.8b --no-fast-sync --json
  hetero-tvm simulate --llm llama-3-8b --trace trace.json   # open in ui.perfetto.dev
  hetero-tvm simulate --llm llama-3-8b --renderer 60 --renderer-share 0.3 --gpu-share 0.6
  hetero-tvm simulate --llm llama-3-8b --all-lengths --estimate   # minutes once, then seconds
  hetero-tvm simulate model_folder/ --target snapdragon-8-gen-3 --prompt 300 --decode 64
  hetero-tvm simulate detector.onnx --target snapdragon-8-gen-3 --input x=1x3x320x320

Nothing is computed and no weights are needed: a language model is its architecture, by name
(--llm help lists them) or as a TOML file like those in target_specs/llms. Every number is
simulated, from the figures of the target's spec; none was measured on a device by us.

what an NPU does with a prompt that is no length it has a graph for (32, 64, ... 1024):
  padding   computes up to the next length
  pipe      the largest length that fits, then the rest in the same way, one after the other
  online    compiles a graph for exactly this length first: 38 ms + 0.47 ms per token
  plan      the cheapest of padding, pipe and both mixed, and the GPU may take the remainder

exit codes: 0 simulated, 2 bad input, 3 something is missing on this machine, 5 our bug
"""
_POLICY = "plan"
_LONGEST = 131_072  # tokens: the longest context of the Llama 3 family


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm simulate`."""
    add_onnx_arguments(parser)
    llm = parser.add_argument_group("language model: an ONNX folder, or in its place --llm")
    llm.add_argument("--llm", help="architecture name or TOML file; `help` lists them")
    llm.add_argument("--prompt", type=int, default=256, metavar="N", help="tokens (default 256)")
    llm.add_argument(
        "--all-lengths",
        action="store_true",
        help="--llm: plan for every length that the NPU has graphs for, in place of --prompt",
    )
    llm.add_argument(
        "--estimate",
        action="store_true",
        help="--llm: Qualcomm's compiler estimates the products on the NPU in many sizes (minutes "
        "once, then it is kept)",
    )
    llm.add_argument(
        "--decode", type=int, default=32, metavar="N", help="tokens to generate (default 32)"
    )
    llm.add_argument(
        "--npu-policy",
        default=_POLICY,
        metavar="POLICY",
        help="--llm: plan, padding, online or pipe: what the NPU does at an odd prompt length",
    )
    around = parser.add_argument_group("what surrounds it")
    around.add_argument(
        "--no-fast-sync",
        action="store_true",
        help="wait by the drivers' own waits (clFinish), not by a predicted sleep and a poll",
    )
    around.add_argument(
        "--renderer", type=float, metavar="FPS", help="a renderer beside it, at this frame rate"
    )
    around.add_argument(
        "--renderer-share",
        metavar="SHARE",
        help="GPU time that the renderer's frames take, of all (default 0.3)",
    )
    around.add_argument(
        "--gpu-share",
        metavar="SHARE",
        help="0.6 or 60%%: no stretch of our GPU work is longer than this share of a frame's time",
    )
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a Chrome/Perfetto trace")


def run(args: argparse.Namespace) -> int:
    """Simulate and print."""
    _check_trace(args.trace)
    conditions = _conditions(args)
    if args.llm is not None:
        return _run_llm(args, conditions)
    from hetero_tvm import report_simulation, simulation

    if args.model is None:
        raise BadInput(
            "nothing to simulate: give --llm NAME (--llm help lists them) or an ONNX file"
        )
    if args.npu_policy != _POLICY:
        raise BadInput("--npu-policy is for --llm; a model's regions are what `build` makes of it")
    config = onnx_config(args, output=None)
    for flag in ("all_lengths", "estimate"):
        if getattr(args, flag):
            raise BadInput(f"--{flag.replace('_', '-')} is for --llm")
    if args.model.is_dir():
        return _run_folder(args, config, conditions)
    with Progress(quiet=args.quiet) as progress:
        report = simulation.simulate_model(config, progress, conditions)
    runs = {mode: {"run": done.run} for mode, done in report.modes.items()}
    _write_trace(args, runs, f"{args.model.name} on {report.target}")
    if args.json:
        cli.emit_json("simulate", report.to_dict())
    else:
        cli.emit(report_simulation.model_summary(report))
    return 0


def _run_folder(args: argparse.Namespace, config: BuildConfig, conditions: Conditions) -> int:
    from hetero_tvm import report_simulation, simulation

    _check_tokens(args)
    with Progress(quiet=args.quiet) as progress:
        report = simulation.simulate_folder(
            config,
            prompt=args.prompt,
            decode=args.decode,
            progress=progress,
            conditions=conditions,
        )
    runs = {
        mode: {f"{rows} tokens": done.run for rows, done in steps.items()}
        for mode, steps in report.modes.items()
    }
    _write_trace(args, runs, f"{args.model.name} on {report.target}")
    if args.json:
        cli.emit_json("simulate", report.to_dict())
    else:
        cli.emit(report_simulation.folder_summary(report))
    return 0


def _check_tokens(args: argparse.Namespace) -> None:
    for flag in ("prompt", "decode"):
        tokens = getattr(args, flag)
        if not 1 <= tokens <= _LONGEST:
            raise BadInput(f"--{flag} must be within 1 to {_LONGEST} tokens, got {tokens}")


def _run_llm(args: argparse.Namespace, conditions: Conditions) -> int:
    from hetero_tvm import report_simulation, simulation
    from hetero_tvm.config import default_cache_dir
    from hetero_tvm.llm_costs import estimated_costs
    from hetero_tvm.llm_graph import NPU_LENGTHS, POLICIES
    from target_specs.llm import list_llms, load_llm
    from target_specs.loader import SpecError, load_spec, resolve

    if args.llm == "help":
        cli.emit("\n".join(list_llms()))
        return 0
    if args.model is not None:
        raise BadInput("give --llm or an ONNX file, not both")
    if args.input:
        raise BadInput("--input is for an ONNX file; a language model has --prompt and --decode")
    _check_tokens(args)
    if args.npu_policy not in POLICIES:
        raise BadInput(
            f"--npu-policy must be one of {', '.join(POLICIES)}, got {args.npu_policy!r}"
        )
    try:
        llm, spec = load_llm(args.llm), load_spec(args.target)
        name = args.target if args.target.endswith(".toml") else resolve(args.target)
    except SpecError as error:
        raise BadInput(str(error)) from None
    with Progress(quiet=args.quiet) as progress:
        if name != args.target:
            progress.note(f"target {args.target} stands for {name}")
        prompts = NPU_LENGTHS if args.all_lengths else (args.prompt,)
        progress.begin({"estimate": 1.0, "prefill": 1.0, "decode": 1.0})
        costs = None
        if args.estimate:
            progress.step("estimate")
            costs = estimated_costs(
                spec, llm, prompts, cache_dir=default_cache_dir(), progress=progress.note
            )
        reports = [
            simulation.simulate_llm(
                spec,
                llm,
                prompt=prompt,
                decode=args.decode,
                policy=args.npu_policy,
                conditions=conditions,
                on_step=progress.step,
                costs=costs,
            )
            for prompt in prompts
        ]
    report = reports[-1]
    runs = {
        mode: {phase: done.run for phase, done in passes.items()}
        for mode, passes in report.modes.items()
    }
    _write_trace(args, runs, f"{llm.name} on {spec.name}")
    if args.json:
        lengths = {"lengths": [one.rates() for one in reports]} if args.all_lengths else {}
        cli.emit_json("simulate", {**report.to_dict(), **lengths})
    elif args.all_lengths:
        cli.emit(report_simulation.lengths_summary(reports))
    else:
        cli.emit(report_simulation.llm_summary(report))
    return 0


def _conditions(args: argparse.Namespace) -> Conditions:
    from hetero_tvm.simulation import Conditions
    from hetero_tvm.simulator import Renderer

    fast, rate = not args.no_fast_sync, args.renderer
    if rate is None:
        for flag in ("renderer_share", "gpu_share"):
            if getattr(args, flag) is not None:
                raise BadInput(f"--{flag.replace('_', '-')} needs --renderer FPS beside it")
        return Conditions(fast_sync=fast)
    if not 1 <= rate <= 1000:
        raise BadInput(f"--renderer must be within 1 to 1000 frames a second, got {rate:g}")
    taken = _share("--renderer-share", args.renderer_share or "0.3")
    if taken == 1:
        raise BadInput("--renderer-share must be below 1: it would leave nothing of the GPU")
    return Conditions(
        fast_sync=fast,
        renderer=Renderer(frames_per_second=rate, frame_us=taken * 1e6 / rate),
        gpu_share=None if args.gpu_share is None else _share("--gpu-share", args.gpu_share),
    )


def _share(flag: str, text: str) -> float:
    """`0.6` or `60%`."""
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise BadInput(f"{flag} {text}: write a share above 0 and at most 1, as in 0.6 or 60%")
    return share


def _check_trace(path: Path | None) -> None:
    """Before the work, not after it."""
    if path is not None and path.is_dir():
        raise BadOutputPath(f"--trace {path}: a folder; give a file's name")
    if path is not None and not path.absolute().parent.is_dir():
        raise BadOutputPath(f"--trace {path}: the folder {path.absolute().parent} does not exist")


def _write_trace(
    args: argparse.Namespace, runs: Mapping[str, Mapping[str, Run]], title: str
) -> None:
    from hetero_tvm.trace import trace

    if args.trace is None:
        return
    try:
        args.trace.write_text(json.dumps(trace(runs, title)), encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"--trace {args.trace}: {error.strerror}") from None
    cli.say(f"{args.trace}: open it in ui.perfetto.dev or chrome://tracing", quiet=args.quiet)


if __name__ == "__main__":
    sys.exit(cli.verb_main("simulate"))
