"""Flags that every verb on a model takes, and the configuration that they make."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hetero_tvm.config import DEVICES, DTYPES, BuildConfig
from hetero_tvm.errors import BadInput


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, its target, its shapes, its storage type, and the devices to use."""
    parser.add_argument("model", nargs="?", type=Path, help="ONNX file")
    parser.add_argument(
        "-t", "--target", default="snapdragon", help="target name or TOML file; `help` lists them"
    )
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
        "--devices", choices=DEVICES, default="gpu+npu", help="accelerators to use (default both)"
    )
    parser.add_argument(
        "--no-split",
        action="store_true",
        help="keep every operator whole: both devices take turns, none is cut between them",
    )


def model_config(args: argparse.Namespace, *, output: Path | None, **more: Any) -> BuildConfig:
    """What the flags of `add_model_arguments` ask for.

    Raises:
        BadInput: no model, or an `--input` that cannot be read or is given twice.
    """
    if args.target == "help" and args.verb != "build":
        raise BadInput("hetero-tvm build --target help lists the targets")
    if args.model is None:
        raise BadInput(f"no model given; usage: hetero-tvm {args.verb} MODEL.onnx --target TARGET")
    from hetero_tvm import frontend

    inputs = {}
    for spec in map(frontend.parse_input_flag, args.input):
        if spec.name in inputs:
            raise BadInput(f"--input {spec.name} is given twice")
        inputs[spec.name] = spec
    return BuildConfig(
        model=args.model,
        target=args.target,
        output=output,
        inputs=inputs,
        dtype=args.dtype,
        devices=args.devices,
        split=not args.no_split,
        **more,
    )
