"""Verb and function: an ONNX model in, one shared library for GPU and NPU out.

python -m hetero_tvm.build model.onnx --target snapdragon -o model.so
hetero_tvm.build("model.onnx", target="snapdragon", output="model.so")
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero_tvm import cli
from hetero_tvm.arguments import (
    add_model_arguments,
    add_step_arguments,
    checked_samples,
    is_folder,
    model_config,
    read_fill,
    read_lengths,
    read_span,
    read_steps,
)
from hetero_tvm.config import BuildConfig, Objective
from hetero_tvm.device_os import OSES
from hetero_tvm.errors import BadInput, WrongKindOfModel
from hetero_tvm.progress import Progress
from hetero_tvm.quantize import add_scheme_arguments, quantized_copy, read_settings

if TYPE_CHECKING:
    from hetero_tvm.compiler import BuildResult

EXAMPLES = """\
examples:
  hetero-tvm build encoder.onnx --target snapdragon -o encoder.so \\
      --input input_ids=1x128 --input attention_mask=1x128
  hetero-tvm build encoder.onnx --target host --length 32,64,128 -o encoder.so \\
      --input input_ids=1xL --input attention_mask=1xL
  hetero-tvm build encoder.onnx --target host --length 1..512 -o encoder.so \\
      --input input_ids=1xL --input attention_mask=1xL   # chooses which variants are worth it
  hetero-tvm build detector.onnx --target host --input x=1x3x320x320 -o detector.so
  hetero-tvm build detector.onnx --target snapdragon-8-elite --input x=1x3x320x320 --plan-only
  hetero-tvm build encoder.onnx --target snapdragon --os linux-aarch64 -o encoder.so \\
      --input input_ids=1x128 --input attention_mask=1x128
  hetero-tvm build detector.onnx --input x=1x3x320x320 -o detector.so --with-fallback \\
      --target snapdragon-8-gen-2,snapdragon-8-gen-3,snapdragon-8-elite
  hetero-tvm build model_folder/ --target host --context 4096 -o llm.so
  hetero-tvm build encoder.onnx --target host --db tuned/ --input ids=1x128 -o encoder.so
  hetero-tvm build model_folder/ --target host --quantize w4a16 --group 128 -o llm.so
  hetero-tvm build detector.onnx --target host --input x=1x3x320x320 --report detector.html
  hetero-tvm build --target help

exit codes: 0 built, 2 bad input, 3 something is missing on this machine, 5 our bug
"""


def build(
    model: str | Path,
    *,
    target: str = "snapdragon",
    output: str | Path | None = None,
    os: str | None = None,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    length: int | str | Sequence[int] | None = None,
    pad: Mapping[str, float] | None = None,
    dtype: str = "float32",
    devices: str = "gpu+npu",
    split: bool = True,
    objective: Objective = "latency",
    gpu_share: float = 1.0,
    memory_limit: int | None = None,
    off_npu: Sequence[str] = (),
    samples: Sequence[str | Path] = (),
    check: bool = True,
    keep_going: bool = False,
    measure: bool | None = None,
    context: int | None = None,
    prefill: Sequence[int] | None = None,
    db: str | Path | None = None,
    quantize: str | None = None,
    group: int = 32,
    symmetric: bool = False,
    overrides: str | Path | None = None,
    with_fallback: bool = False,
) -> BuildResult:
    """Compile `model` into one shared library.

    Args:
        model: ONNX file, or the folder of a language model.
        target: a name of `--target help`, or a TOML file like those in `target_specs/socs/`.
            Several with commas: the NPU part is compiled for each, and planned is for the first.
        output: the artefact; `<model>.so` in the working directory where None.
        os: what host code is for, as in "linux-aarch64" (`hetero_tvm.device_os.OSES`); this machine
            where None.
        inputs: input name -> shape, for inputs with free dimensions; "L" is what `length` says.
        length: one variant for each of these lengths, in one artefact; "1..512": for all lengths of
            this range, with the variants that are predicted to be worth it.
        pad: input -> what it is filled up with at a length between two of these; 0 by default.
        dtype: storage type of weights and activations, "float32" or "float16".
        devices: "gpu+npu", or one of them alone.
        split: False keeps every operator whole, on one device.
        objective: what the plan minimises, "latency", "energy" or "edp", their product.
        gpu_share: of the GPU's time that is ours, above 0 and at most 1.
        memory_limit: bytes of devices' memory that the plan may need; None: no limit.
        off_npu: names of operators that the NPU must not have; `*` and `?` stand for more.
        samples: .npz files of inputs such as the model will get; operators that the NPU's float16
            makes wrong on them stay off it. Without any, random inputs stand for them.
        check: prove the import against ONNX Runtime.
        keep_going: move NPU regions that the vendor's compiler rejects to the GPU.
        measure: target host: build every mode, time them here, keep the fastest. None: so it is,
            unless `HETERO_HOST_PROFILE` says that this machine is not to be measured.
        context: language model: longest sequence in tokens; None: the model's, at most 2048.
        prefill: language model: how many tokens prompts are taken in at once; None: 32 and 128.
        quantize: language model: "w4a16" stores its products' weights in four bits first; None
            takes them as they are.
        group, symmetric, overrides: how, as for `hetero-tvm quantize`.
        db: a folder of tuned kernels, as `hetero-tvm tune` makes it; None uses none.
        with_fallback: carry what computes the NPU's regions, and the whole model, on a CPU; used
            only where the device lacks them and `load(…, allow_fallback=True)` says so.

    Returns:
        A `BuildResult`: path, plan, manifest, seconds and memory.

    Raises:
        BadInput, EnvironmentProblem: see `hetero_tvm.errors`.
    """
    from hetero_tvm import compiler

    model = Path(model)
    shapes = {name: tuple(shape) for name, shape in (inputs or {}).items()}
    has_length = any("L" in shape for shape in shapes.values())
    if has_length != (length is not None):
        raise BadInput('length and a dimension "L" in inputs belong together')

    first, *others = [word.strip() for word in target.split(",")]

    def at(size: int | None) -> BuildConfig:
        return BuildConfig(
            model=model,
            target=first,
            more_targets=tuple(others),
            with_fallback=with_fallback,
            output=Path(output) if output else Path(model.with_suffix(".so").name),
            os=os,
            inputs={
                name: tuple(size if dim == "L" else dim for dim in shape)
                for name, shape in shapes.items()
            },
            dtype=dtype,
            devices=devices,
            split=split,
            objective=objective,
            gpu_share=gpu_share,
            memory_limit=memory_limit,
            off_npu=tuple(off_npu),
            samples=checked_samples(samples, model, length),
            check=check,
            keep_going=keep_going,
            measure=measure,
            db=Path(db) if db is not None else None,
        )

    ends = read_span(length) if isinstance(length, str) else None
    if isinstance(length, str):
        lengths = [] if ends else list(read_lengths(length))
    else:
        lengths = [length] if isinstance(length, int) else list(length or ())
    if length is not None and ends is None and (not lengths or min(lengths) < 1):
        raise BadInput(f"length {length}: whole numbers above 0")
    _check_overrides(quantize, overrides)
    try:
        config = at(None)
    except ValueError as error:
        raise BadInput(str(error)) from None
    if model.is_dir():
        _refuse_for_llm(config)
        if length is not None or shapes or pad or measure:
            raise WrongKindOfModel(
                f"{model}: a language model takes no inputs, length, pad or measure"
            )
        from hetero_tvm import llm_build

        with _quantized(
            config, quantize, group, symmetric, Path(overrides) if overrides else None
        ) as taken:
            return llm_build.build(taken, prefill=prefill, capacity=context)
    if quantize is not None:
        raise WrongKindOfModel(f"quantize is for a language model's folder; {model} is none")
    if context is not None or prefill is not None:
        raise WrongKindOfModel(
            f"context and prefill are for a language model's folder; {model} is none"
        )
    if length is None:
        return compiler.build(config)
    from hetero_tvm import variants

    if ends is not None:
        from hetero_tvm.between import Span

        return variants.build_span(Span(*ends), at, fill=pad or {})
    configs = {size: at(size) for size in lengths}
    return variants.build(configs, longer=at(max(lengths) + 1), fill=pad or {})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm build`."""
    add_model_arguments(parser)
    parser.add_argument("-o", "--output", type=Path, help="artefact (default: MODEL.so, here)")
    parser.add_argument(
        "--os",
        choices=OSES,
        help="what the artefact's host code is for (default: this machine); others than this one "
        "need pip install 'hetero-tvm[cross]', Android its NDK",
    )
    add_step_arguments(
        parser,
        "one variant for each length in one artefact",
        "for all of these lengths, with the variants that are worth it",
    )
    parser.add_argument(
        "--pad",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what an input is filled up with at a length that is not built (default 0)",
    )
    parser.add_argument(
        "--no-shared-npu-weights",
        dest="share_npu_weights",
        action="store_false",
        default=None,
        help="several lengths for a device: every length's NPU part has a copy of the weights",
    )
    parser.add_argument(
        "--with-fallback",
        action="store_true",
        help="also carry what computes the NPU's part, and the whole model, on a CPU, for "
        "`run --allow-fallback` where a device lacks its NPU or OpenCL (its weights once more)",
    )
    parser.add_argument(
        "--plan-only", action="store_true", help="place operators; compile, prove, write nothing"
    )
    parser.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        help="target host: build every mode (GPU only, NPU only, layer level, split), time them "
        "here, keep the fastest (default there)",
    )
    parser.add_argument(
        "--quantize",
        choices=("w4a16",),
        help="language model: store its products' weights in four bits first, with these:",
    )
    add_scheme_arguments(parser)
    parser.add_argument(
        "--db",
        type=Path,
        metavar="DIR",
        help="use what `hetero-tvm tune` found and verified, where it is of this device and driver "
        "(or, for a device that is not here, of the target's limits)",
    )
    parser.add_argument(
        "--sign", type=Path, metavar="KEY", help="sign it with this private key; see `sign --help`"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="also write what is in it and why, as `hetero-tvm report` does",
    )
    parser.add_argument("--dump-ir", type=Path, metavar="DIR", help="write the IR of every phase")
    parser.add_argument(
        "--no-check", dest="check", action="store_false", help="skip the proof against ONNX Runtime"
    )
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="leave NPU regions that the vendor's compiler rejects to the GPU instead of stopping; "
        "where the proof against ONNX Runtime fails, name every differing node",
    )


def run(args: argparse.Namespace) -> int:
    """Verb: build, print the placement."""
    from hetero_tvm import report_text

    if args.target == "help":
        targets = report_text.targets()
        if args.json:
            cli.emit_json("build", {"targets": targets})
        else:
            cli.emit(report_text.targets_table(targets))
        return 0
    from hetero_tvm import compiler

    stem = args.model.stem if args.model else ""

    def at(length: int | None) -> BuildConfig:
        folder = args.dump_ir
        return model_config(
            args,
            output=None if args.plan_only else args.output or Path(f"{stem}.so"),
            os=args.os,
            length=length,
            check=args.check,
            keep_going=args.keep_going,
            measure=args.measure,
            share_npu_weights=args.share_npu_weights,
            with_fallback=args.with_fallback,
            db=args.db,
            sign=args.sign,
            dump_ir=folder / str(length) if folder is not None and length is not None else folder,
        )

    if args.measure and args.plan_only:
        raise BadInput("--measure times what was built, and --plan-only builds nothing")
    _check_overrides(args.quantize, args.overrides)
    if args.report is not None:
        if args.plan_only:
            raise BadInput("--report shows an artefact, and --plan-only makes none")
        from hetero_tvm.run import check_save

        check_save(args.report, [args.model, args.output], flag="--report")
    fill = read_fill(args.pad)
    if is_folder(
        args,
        refuses=("input", "length", "pad", "measure"),
        needs=("context", "prefill", "quantize"),
    ):
        result = _language_model(args, at(None))
    elif args.length is None:
        if fill:
            raise BadInput("--pad goes with --length: it fills inputs up to a built length")
        config = at(None)
        with Progress(quiet=args.quiet) as progress:
            result = compiler.build(config, progress)
    else:
        from hetero_tvm import variants
        from hetero_tvm.between import Span

        ends = read_span(args.length)
        with Progress(quiet=args.quiet) as progress:
            if ends is not None:
                result = variants.build_span(Span(*ends), at, fill=fill, progress=progress)
            else:
                lengths = read_lengths(args.length)
                configs, longer = {length: at(length) for length in lengths}, at(max(lengths) + 1)
                result = variants.build(configs, longer=longer, fill=fill, progress=progress)
    if args.report is not None:
        from hetero_tvm import report

        assert result.path is not None
        report.write(result.path, args.report)
        cli.say(f"wrote {args.report}", quiet=args.quiet)
    if args.json:
        cli.emit_json("build", result.to_dict())
    else:
        cli.emit(report_text.build_summary(result, verbose=args.verbose > 0))
    return 0


def _check_overrides(scheme: str | None, overrides: str | Path | None) -> None:
    if overrides is not None and scheme is None:
        raise BadInput("--overrides go with --quantize")


def _refuse_for_llm(config: BuildConfig) -> None:
    """What is for models that are one function."""
    if config.more_targets or config.with_fallback:
        raise WrongKindOfModel(
            f"{config.model}: a language model is built for one target, and without a fallback: "
            "build one artefact for each target, and with --devices gpu for devices without its "
            "NPU; `deploy A.so --allow-fallback B.so` takes the first that runs there"
        )


def _language_model(args: argparse.Namespace, config: BuildConfig) -> BuildResult:
    from hetero_tvm import llm_build

    _refuse_for_llm(config)
    prefill, context = read_steps(args)
    with (
        _quantized(
            config, args.quantize, args.group, args.symmetric, args.overrides, quiet=args.quiet
        ) as taken,
        Progress(quiet=args.quiet) as progress,
    ):
        return llm_build.build(taken, prefill=prefill, capacity=context, progress=progress)


@contextlib.contextmanager
def _quantized(
    config: BuildConfig,
    scheme: str | None,
    group: int,
    symmetric: bool,
    overrides: Path | None,
    *,
    quiet: bool = True,
) -> Iterator[BuildConfig]:
    """`config` with its model quantised, if that is asked for; the copy goes when this closes."""
    if scheme is None:
        yield config
        return
    settings = read_settings(group, symmetric)
    near = config.output.resolve().parent if config.output else Path(tempfile.gettempdir())
    with (
        Progress(quiet=quiet) as progress,
        quantized_copy(config.model, near, scheme, settings, overrides, progress) as folder,
    ):
        yield dataclasses.replace(config, model=folder)


class _Verb(types.ModuleType):
    """`hetero_tvm.build` names this module and the function; let both spellings work."""

    def __call__(self, *args: Any, **kwargs: Any) -> BuildResult:
        return build(*args, **kwargs)


sys.modules[__name__].__class__ = _Verb

if __name__ == "__main__":
    sys.exit(cli.verb_main("build"))
