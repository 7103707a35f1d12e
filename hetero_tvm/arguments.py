"""Flags that every verb on a model takes, and the configuration that they make."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hetero_tvm.config import DEVICES, DTYPES, OBJECTIVES, BuildConfig
from hetero_tvm.errors import BadInput, WrongKindOfModel
from hetero_tvm.transports.address import FORMS


def add_onnx_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, its target, its shapes and its storage type."""
    parser.add_argument("model", nargs="?", type=Path, help="ONNX file")
    parser.add_argument(
        "-t",
        "--target",
        default="snapdragon",
        help="target name or TOML file; `help` lists them. `build` takes several with commas: the "
        "NPU part is compiled for each, and planned is for the first",
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=DIMS[:DTYPE]",
        help="fix an input's dimensions, as in input_ids=1x128:int64; once per input. "
        "A dimension written L is what --length says",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="storage type of weights and activations (default float32)",
    )


def add_device_arguments(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Where to do it: another device than this machine."""
    parser.add_argument(
        "--to",
        required=required,
        metavar="DEVICE",
        help=f"a device: {FORMS}" + ("" if required else ", rpc[s]://host[:port]"),
    )
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        help="folder for deployments there (default ~/.hetero_tvm, adb: in /data/local/tmp)",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What `add_onnx_arguments` adds, the devices to use, and how to plan."""
    add_onnx_arguments(parser)
    parser.add_argument(
        "--devices", choices=DEVICES, default="gpu+npu", help="accelerators to use (default both)"
    )
    parser.add_argument(
        "--no-split",
        action="store_true",
        help="keep every operator whole: none is cut between both devices",
    )
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default="latency",
        help="what the plan minimises; edp is energy x latency (default latency)",
    )
    parser.add_argument(
        "--off-npu",
        action="append",
        default=[],
        metavar="OPERATOR",
        help="keep this operator off the NPU, as `debug` may advise; * and ? stand for more; once "
        "per operator",
    )
    parser.add_argument(
        "--samples",
        action="append",
        default=[],
        type=Path,
        metavar="FILE.npz",
        help="inputs such as the model will get: operators that the NPU's float16 makes wrong on "
        "them stay off it; once per set (default: random inputs)",
    )
    parser.add_argument(
        "--gpu-share",
        default="100%",
        metavar="SHARE",
        help="of the GPU's time that is ours, as in 60%% while it also draws (default 100%%)",
    )
    parser.add_argument(
        "--memory-limit",
        metavar="BYTES",
        help="of devices' memory: weights, activations, inputs and caches, as in 512M; the fastest "
        "plan within it, or an error that says what is needed",
    )
    parser.add_argument(
        "--estimate",
        action=argparse.BooleanOptionalAction,
        help="--estimate: Qualcomm's compiler estimates the model's matrix products in many sizes, "
        "too, not only the plan's NPU regions (minutes once, then it is kept); --no-estimate: plan "
        "with the spec's figures alone (default: the regions, where its compiler is installed and "
        "estimates the target's NPU)",
    )
    parser.add_argument(
        "--reprofile",
        action="store_true",
        help="target host: measure this machine again (half a minute), not only the first time",
    )


def add_step_arguments(
    parser: argparse.ArgumentParser, lengths: str, span: str | None = None
) -> None:
    """Flags that make several programs of one model.

    Args:
        parser: gets them.
        lengths: what `--length` does.
        span: what a range of lengths does, where the verb takes one.
    """
    parser.add_argument(
        "--length",
        metavar="L1,L2,…|L1..L2" if span else "L1,L2,…",
        help=f"{lengths}, with the dimensions that --input writes as L at it"
        + (f"; 1..512: {span}" if span else ""),
    )
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="language model: longest sequence, in tokens (default the model's, at most 2048)",
    )
    parser.add_argument(
        "--prefill",
        metavar="N1,N2,…",
        help="language model: how many tokens a prompt is taken in at once (default 32,128); "
        "decoding is always there",
    )


def read_steps(args: argparse.Namespace) -> tuple[tuple[int, ...] | None, int | None]:
    """What `--prefill` and `--context` say of a language model's folder; None: not given.

    Raises:
        BadInput: as `read_lengths`.
    """
    prefill = None if args.prefill is None else read_lengths(args.prefill, "--prefill")
    return prefill, args.context


def is_folder(
    args: argparse.Namespace,
    *,
    refuses: Sequence[str] = ("length",),
    needs: Sequence[str] = ("context", "prefill"),
) -> bool:
    """Whether the model is a language model's folder, and not one ONNX file.

    Args:
        args: as parsed, with `model`.
        refuses: flags that a folder does not take.
        needs: flags that only a folder takes.

    Raises:
        WrongKindOfModel: a flag of the other kind is given.
    """
    if args.model is None:
        return False
    folder: bool = args.model.is_dir()
    for flag in refuses if folder else needs:
        value = getattr(args, flag)
        if value is not None and value is not False and value != []:
            raise WrongKindOfModel(
                f"--{flag}: {args.model} is a language model's folder, which takes none"
                if folder
                else f"--{flag} is for a language model's folder; {args.model} is none"
            )
    return folder


def read_lengths(text: str, flag: str = "--length") -> tuple[int, ...]:
    """The lengths of `--length 1,64,256`, each once and in the order given.

    Raises:
        BadInput: anything but whole numbers above 0 with commas between them.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise BadInput(f"{flag} {text}: write whole numbers above 0 with commas, as in 1,64,256")
    return tuple(dict.fromkeys(int(word) for word in words))


def read_span(text: str) -> tuple[int, int] | None:
    """The ends of `--length 1..512`; None where it is no range.

    Raises:
        BadInput: a range that has no two ends above 0, the second one the larger.
    """
    first, dots, last = (word.strip() for word in text.partition(".."))
    if not dots:
        return None
    if not all(word.isascii() and word.isdigit() for word in (first, last)) or not (
        0 < int(first) < int(last)
    ):
        raise BadInput(
            f"--length {text}: write a range from a shorter to a longer length, as in 1..512, or "
            "lengths with commas, as in 1,64,256"
        )
    return int(first), int(last)


def read_fill(texts: Sequence[str]) -> dict[str, float]:
    """Input -> value of every `--pad NAME=VALUE`.

    Raises:
        BadInput: anything else, or a name that is given twice.
    """
    fill: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not math.isfinite(number):
            raise BadInput(f"--pad {text}: write NAME=VALUE, as in --pad token_type_ids=0")
        if name in fill:
            raise BadInput(f"--pad {name} is given twice")
        fill[name] = number
    return fill


def read_share(text: str) -> float:
    """The share of `--gpu-share 60%` or `--gpu-share 0.6`, above 0 and at most 1.

    Raises:
        BadInput: anything but a share in that range.
    """
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise BadInput(f"--gpu-share {text}: write a share above 0 and at most 1, as in 60% or 0.6")
    return share


def _memory_limit(text: str | None) -> int | None:
    from hetero_tvm.memory_limit import read_bytes

    return None if text is None else read_bytes(text, "--memory-limit")


def checked_samples(
    paths: Sequence[str | Path], model: Path | None, length: object
) -> tuple[Path, ...]:
    """`--samples`, which have one shape and are for models that are one function; BadInput."""
    if paths and length is not None:
        raise BadInput("samples have one length: build without a length, or without samples")
    if paths and model is not None and model.is_dir():
        raise WrongKindOfModel(f"{model}: a language model takes no samples")
    return tuple(Path(path) for path in paths)


def model_config(
    args: argparse.Namespace, *, output: Path | None, length: int | None = None, **more: Any
) -> BuildConfig:
    """What the flags of `add_model_arguments` ask for.

    Args:
        args: as parsed.
        output: the artefact; None to plan only.
        length: stands for every dimension that is written `L` in `--input`.
        more: further fields of the configuration.

    Raises:
        BadInput: as `onnx_config`.
    """
    return onnx_config(
        args,
        output=output,
        length=length,
        devices=args.devices,
        split=not args.no_split,
        objective=args.objective,
        **({} if args.estimate is None else {"estimate": args.estimate}),
        reprofile=args.reprofile,
        gpu_share=read_share(args.gpu_share),
        memory_limit=_memory_limit(args.memory_limit),
        off_npu=tuple(args.off_npu),
        samples=checked_samples(args.samples, args.model, length),
        **more,
    )


def onnx_config(
    args: argparse.Namespace, *, output: Path | None, length: int | None = None, **more: Any
) -> BuildConfig:
    """What the flags of `add_onnx_arguments` ask for; see `model_config`.

    Raises:
        BadInput: no model, an `--input` that cannot be read or is given twice, or an `L` without
            a length and the other way round.
    """
    if args.target == "help" and args.verb != "build":
        raise BadInput("hetero-tvm build --target help lists the targets")
    if args.model is None:
        raise BadInput(f"no model given; usage: hetero-tvm {args.verb} MODEL.onnx --target TARGET")
    from hetero_tvm import frontend

    inputs = {}
    texts = [_with_length(text, length) for text in args.input]
    if length is not None and texts == args.input:
        raise BadInput(
            "--length needs an --input with a dimension written L, as in --input input_ids=1xL"
        )
    for spec in map(frontend.parse_input_flag, texts):
        if spec.name in inputs:
            raise BadInput(f"--input {spec.name} is given twice")
        inputs[spec.name] = spec
    target, *others = [word.strip() for word in args.target.split(",")]
    if others and args.verb != "build":
        raise BadInput(f"--target {args.target}: {args.verb} takes one; `build` takes several")
    if others:
        more["more_targets"] = tuple(others)
    return BuildConfig(
        model=args.model,
        target=target,
        output=output,
        inputs=inputs,
        dtype=args.dtype,
        **more,
    )


def _with_length(text: str, length: int | None) -> str:
    """`input_ids=1xL:int64` with the length for L."""
    name, equals, rest = text.rpartition("=")
    dims, colon, dtype = rest.partition(":")
    words = dims.strip().split("x")
    if not equals or "L" not in words:
        return text
    if length is None:
        raise BadInput(
            f"--input {text}: L stands for the lengths of --length 1,64,256, which `build` and "
            "`plan` take; give it, or write a number"
        )
    fixed = "x".join(str(length) if word == "L" else word for word in words)
    return f"{name}{equals}{fixed}{colon}{dtype}"
