"""A conversation with a language model, from the folder of its ONNX file.

    python examples/chat/chat.py

Builds at the first run, then reads questions from the keyboard (or a pipe) and streams answers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import llm_forms

import hetero_tvm
from hetero_tvm.completion import Options
from hetero_tvm.errors import HeteroError
from hetero_tvm.sampling import Sampling
from hetero_tvm.text_model import TextModel, open_text_model


def answer(model: TextModel, messages: list[dict[str, str]], longest: int) -> str:
    """Stream the answer to a conversation, and return it."""
    pieces = []
    # A model as small as this one repeats itself without the penalty.
    options = Options(max_new_tokens=longest, sampling=Sampling(repetition_penalty=1.2))
    for piece in model.complete(model.chat(messages), options):
        print(piece, end="", flush=True)
        pieces.append(piece)
    print()
    return "".join(pieces)


def main() -> int:
    """Build where needed, then question by question."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of a language model")
    parser.add_argument("--artefact", type=Path, help="where it is built (default: in .cache)")
    parser.add_argument("--context", type=int, default=1024, help="longest conversation, in tokens")
    parser.add_argument("--longest", type=int, default=200, help="longest answer, in tokens")
    args = parser.parse_args()
    artefact = args.artefact or llm_forms.CACHE / "chat.so"
    try:
        if not artefact.is_file():
            folder = args.model or llm_forms.make("genai-int4")
            print(f"building {artefact.name} from {folder} …", file=sys.stderr)
            hetero_tvm.build(
                folder, target="host", devices="gpu", context=args.context, output=artefact
            )
        model = open_text_model(artefact)
        messages: list[dict[str, str]] = []
        while True:
            print("you> ", end="", file=sys.stderr, flush=True)
            question = sys.stdin.readline().strip()
            if not question:
                return 0
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer(model, messages, args.longest)})
    except HeteroError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
