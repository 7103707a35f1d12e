"""Flags that say what a verb runs, on what, and where: the same words wherever they stand."""

from __future__ import annotations

import argparse
from pathlib import Path

from hetero_tvm.arguments import add_device_arguments
from hetero_tvm.errors import BadInput

PROMPT = 64  # tokens, where nothing else is said


def add(parser: argparse.ArgumentParser) -> None:
    """What is run again and again: the artefact, what goes into it, and where."""
    add_artefact(parser)
    add_inputs(parser)
    add_device_arguments(parser)
    parser.add_argument(
        "--prompt",
        type=int,
        metavar="TOKENS",
        help=f"language model: of the prompt (default {PROMPT})",
    )


def add_artefact(parser: argparse.ArgumentParser) -> None:
    """The artefact."""
    parser.add_argument("artefact", type=Path, help="what `hetero-tvm build` wrote")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Inputs, given or random, and the OpenCL device."""
    parser.add_argument(
        "--inputs",
        action="append",
        default=[],
        metavar="FILE.npz | NAME=FILE.npy",
        help="inputs; what is not given is random",
    )
    parser.add_argument(
        "--length",
        type=int,
        help="of the random inputs, where the artefact is built for several (default: the longest)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default 0)")
    add_opencl(parser)


def add_opencl(parser: argparse.ArgumentParser) -> None:
    """Which OpenCL device of this machine."""
    parser.add_argument("--device", help="OpenCL device, by index or by part of its name")


def refuse_device_there(to: str | None) -> None:
    """`--device` names an OpenCL device of this machine.

    Raises:
        BadInput: where the model runs elsewhere.
    """
    if to is not None:
        raise BadInput("--device: name the device's OpenCL when you deploy, --opencl-device")
