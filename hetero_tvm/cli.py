"""The command line: verbs, common flags, and how every failure leaves the program.

A verb is a module with `EXAMPLES`, `add_arguments(parser)` and `run(args) -> int`; a new one is
that module and one row in `VERBS`. Its imports happen only when it runs. Data goes to stdout, talk
to stderr. Exit codes: see `hetero_tvm.errors`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import math
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hetero_tvm import __version__
from hetero_tvm.errors import HeteroError

VERBS = {  # verb, module `hetero_tvm.<verb>` -> what it is for
    "build": "compile an ONNX model into one .so for a target",
    "plan": "say where every operator would run, what it costs there and elsewhere, and why",
    "generate": "let a language model continue a prompt or answer it, as text that streams",
    "serve": "serve a language model to programs that speak OpenAI's interface",
    "quantize": "store a language model's weights in four bits, and say what that costs",
    "run": "run an artefact, and compare it with its ONNX model",
    "profile": "one timeline of CPU, GPU and NPU, and where the time of a run goes",
    "bench": "time an artefact: spread, memory, minute by minute if asked",
    "compare": "is one measurement of `bench` worse than another? with an exit code",
    "debug": "find the first layer whose numbers leave the reference, on each device",
    "doctor": "check everything that has to be right on this machine",
    "inspect": "what a model is made of, what each device takes of it, the memory it needs",
    "devices": "devices that can be reached, what they are, and what they lack",
    "deploy": "put an artefact on a device, prove it there, leave a command that runs it",
    "tune": "search schedules for a model's GPU kernels, prove them on the device, remember them",
    "device_server": "let models of other machines run on this one, for those who may",
    "sign": "sign artefacts, make keys, say who signed one",
    "simulate": "run a planned program on a model of the SoC: tokens a second, who waits, a trace",
}
SCHEMA_VERSION = 1
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_TERMINATED = 143  # 128 + SIGTERM
_NO_OUTPUT = 3
_OUR_BUG = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run `hetero-tvm VERB …`; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="hetero-tvm",
        description="Compile an ONNX model for a SoC's GPU and NPU at once, and run it.",
    )
    parser.add_argument("--version", action="version", version=f"hetero-tvm {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    wanted = next((word for word in argv if word in VERBS), None)
    for name, summary in VERBS.items():
        if name == wanted:
            _add_verb(subparsers, name, summary)
        else:
            subparsers.add_parser(name, add_help=False, help=summary)
    return _guarded(parser.parse_args(argv))


def entry() -> int:
    """Entry of the console script and of `python -m hetero_tvm`.

    Vendor libraries print to file descriptor 1. It becomes stderr for the whole process, and only
    `emit` writes to the real stdout, so that `--json | jq` always works.
    """
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if sys.stdout is not None:  # None where the shell closed it
            sys.stdout.flush()
            sys.stdout = os.fdopen(os.dup(1), "w")
            os.dup2(2, 1)
        else:
            sys.stdout = Path(os.devnull).open("w")
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:  # before a verb had started
        say("hetero-tvm: interrupted")
        return _INTERRUPTED
    except OSError as error:  # the reader of our output went away, or its disk is full
        say(f"hetero-tvm: the output could not be written: {error.strerror}")
        sys.stdout = Path(os.devnull).open("w")
        return _NO_OUTPUT
    return code


def verb_main(name: str) -> int:
    """Entry of `python -m hetero_tvm.<name>`."""
    sys.argv.insert(1, name)
    return entry()


def say(message: str, *, quiet: bool = False) -> None:
    """One line of talk, on stderr."""
    if not quiet:
        print(message, file=sys.stderr, flush=True)


def emit(text: str) -> None:
    """Data, on stdout."""
    print(text, flush=True)


def emit_json(verb: str, data: dict[str, Any]) -> None:
    """The verb's result as one JSON document on stdout."""
    document = {"schema_version": SCHEMA_VERSION, "verb": verb, **data}
    emit(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    """`value` with null for infinities and NaN, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _terminated(_signal: int, _frame: Any) -> None:
    """End as Ctrl-C does, so that children are stopped and temporary files are removed."""
    sys.exit(_TERMINATED)


def _add_verb(subparsers: Any, name: str, summary: str) -> None:
    module = importlib.import_module(f"hetero_tvm.{name}")
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=module.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    talk = parser.add_argument_group("talk")
    talk.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    talk.add_argument("-q", "--quiet", action="store_true", help="errors only on stderr")
    talk.add_argument("-v", "--verbose", action="count", default=0, help="more; twice for debug")
    talk.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    parser.set_defaults(run=module.run)


def _guarded(args: argparse.Namespace) -> int:
    level = logging.DEBUG if args.verbose > 1 else logging.INFO if args.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr)
    if not args.verbose:
        warnings.filterwarnings("ignore")
    try:
        return int(args.run(args))
    except HeteroError as error:
        if args.debug:
            raise
        say(f"hetero-tvm {args.verb}: error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say(f"hetero-tvm {args.verb}: interrupted; nothing was left half-written")
        return _INTERRUPTED
    except BrokenPipeError:
        raise  # `entry` reports it: a result that nobody could read is not a result
    except Exception as error:
        if args.debug:
            raise
        first = str(error).strip().splitlines() or [""]
        say(
            f"hetero-tvm {args.verb}: internal error: {type(error).__name__}: {first[-1][:300]}\n"
            "This is a bug of ours; run again with --debug and report what it prints."
        )
        return _OUR_BUG
