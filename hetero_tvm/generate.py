"""Verb: let a language model continue a prompt, or answer it, as text that streams to stdout."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero_tvm import cli, workload_arguments
from hetero_tvm.arguments import add_device_arguments
from hetero_tvm.completion import Completion, Options
from hetero_tvm.errors import BadInput
from hetero_tvm.sampling import Sampling

if TYPE_CHECKING:
    from hetero_tvm.text_model import TextModel

EXAMPLES = """\
examples:
  hetero-tvm generate model.so "Why is the sky blue?" --chat
  hetero-tvm generate model.so "Once upon a time" --max-new-tokens 200 --temperature 0.8 --seed 1
  cat article.txt | hetero-tvm generate model.so - --stop "###"
  hetero-tvm generate model.so --ids 1,15043,3186 --json
  hetero-tvm generate model.so "Why is the sky blue?" --chat --to ssh://me@board

The text goes to stdout as it is made, all else to stderr. Without --temperature the most likely
token is taken each time. With --to the model runs where it is deployed, and times are those of the
one who waits here. exit codes: 0 done, 2 bad input, 3 something is missing, 4 device,
130 Ctrl-C
"""

_DEFAULT_TOKENS = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm generate`."""
    parser.add_argument("artefact", type=Path, help="what `hetero-tvm build` made of the model")
    parser.add_argument("prompt", nargs="?", help="the text to continue; - reads stdin")
    parser.add_argument("--ids", metavar="1,2,3", help="token ids in place of a text")
    parser.add_argument(
        "--chat", action="store_true", help="answer the prompt, in the model's chat template"
    )
    parser.add_argument("--system", metavar="TEXT", help="system message; with --chat")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=_DEFAULT_TOKENS,
        metavar="N",
        help=f"end after N tokens (default {_DEFAULT_TOKENS})",
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 takes the likeliest token (default 0)"
    )
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="of the K likeliest")
    parser.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="of the likeliest that make up P"
    )
    parser.add_argument(
        "--min-p",
        type=float,
        default=0.0,
        metavar="P",
        help="of those at least P times as likely as the likeliest",
    )
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="X",
        help="above 1 makes tokens that were there less likely",
    )
    parser.add_argument("--seed", type=int, help="the same choices again")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before TEXT; repeatable"
    )
    workload_arguments.add_opencl(parser)
    add_device_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Generate and print."""
    text = _prompt_text(args)
    options = Options(
        max_new_tokens=args.max_new_tokens,
        sampling=Sampling(
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            min_p=args.min_p,
            repetition_penalty=args.repetition_penalty,
            seed=args.seed,
        ),
        stop_strings=args.stop,
    )
    ids = None if args.ids is None else _ids(args.ids)
    with _opened(args) as model:
        return _generate(args, model, _prompt(model, args, text, ids), options)


@contextlib.contextmanager
def _opened(args: argparse.Namespace) -> Iterator[TextModel]:
    """The model, here or where it is deployed."""
    from hetero_tvm import text_model

    if args.to is None:
        yield text_model.open_text_model(args.artefact, args.device)
        return
    if args.device is not None:
        workload_arguments.refuse_device_there(args.to)
    with text_model.opened_text_model(args.artefact, args.to, args.root) as model:
        yield model


def _prompt(
    model: TextModel, args: argparse.Namespace, text: str, ids: list[int] | None
) -> list[int]:
    """The prompt's tokens."""
    if ids is not None:
        return ids
    if args.chat:
        system = [] if args.system is None else [{"role": "system", "content": args.system}]
        return model.chat([*system, {"role": "user", "content": text}])
    return model.plain(text)


def _generate(
    args: argparse.Namespace, model: TextModel, prompt: Sequence[int], options: Options
) -> int:
    """Print what comes, as it comes; the exit code."""
    completion = model.complete(prompt, options)
    if model.tokenizer is None:
        cli.say(f"{args.artefact}: came without tokenizer.json: token ids", quiet=args.quiet)
    pieces: list[str] = []
    shown = 0  # tokens, where there is no text to show
    try:
        for piece in completion:
            pieces.append(piece)
            if args.json:
                continue
            if model.tokenizer is not None:
                _show(piece)
            elif len(completion.tokens) > shown:
                _show(f"{',' if shown else ''}{completion.tokens[-1]}")
                shown += 1
    except KeyboardInterrupt:
        # The device may not answer any more, or only when its step is done: it is not asked.
        peak = None if args.to is not None else model.surroundings.peak_bytes()
        _end(args, completion, model.facts, "Ctrl-C", peak)
        raise
    peak = model.surroundings.peak_bytes()
    result = summary(completion, "".join(pieces), prompt, model.facts, peak)
    if args.json:
        cli.emit_json("generate", result)
    else:
        ended = "a stop" if completion.finish_reason == "stop" else "length"
        _end(args, completion, model.facts, ended, peak)
    return 0


def summary(
    completion: Completion,
    text: str,
    prompt: Sequence[int],
    facts: Mapping[str, Any],
    peak: int | None,
) -> dict[str, Any]:
    """What `--json` prints. `peak`: bytes of memory, of the process that the model is in."""
    timing = completion.timing
    return {
        "text": text,
        "tokens": list(completion.tokens),
        "prompt_tokens": len(prompt),
        "finish_reason": completion.finish_reason,
        "ttft_s": timing.ttft_s,
        "prefill_tokens_per_s": timing.prefill_tokens_per_s,
        "decode_tokens_per_s": timing.decode_tokens_per_s,
        "peak_memory_bytes": peak,
        **facts,
    }


def _prompt_text(args: argparse.Namespace) -> str:
    """The prompt as it was given; flags that exclude each other are said so."""
    if (args.prompt is None) == (args.ids is None):
        raise BadInput("give a prompt, - for stdin, or --ids 1,2,3; one of them")
    if args.ids is not None and args.chat:
        raise BadInput("--chat is for a text; --ids are used as they are")
    if args.system is not None and not args.chat:
        raise BadInput("--system goes with --chat")
    if args.prompt == "-":
        try:
            return sys.stdin.read()
        except UnicodeDecodeError as error:
            raise BadInput(f"stdin is not UTF-8 text: {error}") from None
    return args.prompt or ""


def _ids(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise BadInput(f"--ids {text}: write whole numbers with commas, as in 1,15043,3186")
    return [int(word) for word in words]


def _show(piece: str) -> None:
    if piece:
        sys.stdout.write(piece)
        sys.stdout.flush()


def _end(
    args: argparse.Namespace,
    completion: Completion,
    facts: Mapping[str, Any],
    ended: str,
    peak: int | None,
) -> None:
    """Finish the line on stdout, and say what it took on stderr."""
    if not args.json:
        _show("\n")
    if not args.quiet and completion.tokens:
        cli.say("\n".join(_words(completion, facts, ended, peak)))


def _words(
    completion: Completion, facts: Mapping[str, Any], ended: str, peak: int | None
) -> list[str]:
    timing = completion.timing
    memory = []
    if peak is not None:
        memory = [f"memory   {peak / 1e6:.0f} MB at most"]
        if "cache_bytes" in facts:
            memory[0] += f", of which {facts['cache_bytes'] / 1e6:.0f} MB cache"
    lines = [
        f"prefill  {timing.prefill_tokens} tokens{_rate(timing.prefill_tokens_per_s)}, "
        f"first token after {timing.ttft_s:.3f} s",
        f"decode   {timing.decode_tokens} tokens{_rate(timing.decode_tokens_per_s)}, "
        f"ended by {ended}",
        *memory,
    ]
    for rows, place in facts.get("placement", {}).items():
        counts = ", ".join(f"{n} on {device}" for device, n in place["operators"].items())
        lines.append(f"step {rows:<4}{counts}; {place['npu_regions']} NPU regions")
    return lines


def _rate(tokens_per_s: float | None) -> str:
    return f", {tokens_per_s:.1f} token/s" if tokens_per_s else ""


if __name__ == "__main__":
    sys.exit(cli.verb_main("generate"))
