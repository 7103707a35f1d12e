"""Flags that say what a verb is to run again and again."""

from __future__ import annotations

import argparse
from pathlib import Path

PROMPT = 64  # tokens, where nothing else is said


def add(parser: argparse.ArgumentParser) -> None:
    """The artefact, what goes into it, and where."""
    parser.add_argument("artefact", type=Path, help="what `hetero-tvm build` wrote")
    parser.add_argument(
        "--inputs",
        action="append",
        default=[],
        metavar="FILE.npz | NAME=FILE.npy",
        help="inputs; what is not given is random",
    )
    parser.add_argument("--length", type=int, help="of random inputs, as for `run`")
    parser.add_argument("--seed", type=int, default=0, help="of random inputs (default 0)")
    parser.add_argument("--device", help="OpenCL device, by index or by part of its name")
    parser.add_argument(
        "--prompt",
        type=int,
        metavar="TOKENS",
        help=f"language model: of the prompt (default {PROMPT})",
    )
