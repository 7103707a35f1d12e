"""Build a real sentence encoder for this host's stand-ins of GPU and NPU, run it, compare it.

    make demo            or            python examples/encoder/demo.py

The model is paraphrase-MiniLM-L3-v2 with its real weights. Everything it does is two commands,
which it prints, so that they can be typed again with other models.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from models import CACHE, MODELS, fetch

from hetero_tvm.cli import main

TARGET = "host"


def run(*words: str) -> int:
    """Show the command, then run it in this process."""
    print(f"\n$ hetero-tvm {shlex.join(words)}", flush=True)
    return main(list(words))


if __name__ == "__main__":
    print("fetching paraphrase-MiniLM-L3-v2 …", flush=True)
    model = str(fetch("minilm"))
    artefact = str(CACHE.parent / "minilm.so")
    inputs = [word for text in MODELS["minilm"].inputs for word in ("--input", text)]
    code = run("build", model, "--target", TARGET, "-o", artefact, *inputs)
    sys.exit(code or run("run", artefact, "--compare", model))
