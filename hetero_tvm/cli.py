"""The command line: verbs, common flags, and how every failure leaves the program.

A verb is a module with `EXAMPLES`, `add_arguments(parser)` and `run(args) -> int`; a new one is
that module and one row in `VERBS`. Its imports happen only when it runs. Data goes to stdout, talk
to stderr; `-q` silences the talk alone. Nothing is coloured. Every failure is one line that ends
with the command that explains it, and an exit code of `hetero_tvm.errors`; a traceback is for
`--debug`, or goes into a report where the fault is ours.
"""

from __future__ import annotations

import argparse
import errno
import faulthandler
import importlib
import json
import logging
import math
import os
import re
import shlex
import signal
import sys
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hetero_tvm import __version__, crash_report, crash_watch, vendor_codes
from hetero_tvm.errors import (
    CannotWrite,
    ComparisonFailed,
    EnvironmentProblem,
    HeteroError,
    MissingPackage,
    NativeCrash,
    OutputLost,
    UsageError,
)

VERBS = {  # verb, module `hetero_tvm.<verb>` -> what it is for
    "build": "compile an ONNX model into one .so for a target",
    "plan": "say where every operator would run, what it costs there and elsewhere, and why",
    "generate": "let a language model continue a prompt or answer it, as text that streams",
    "serve": "serve a language model to programs that speak OpenAI's interface",
    "quantize": "store a language model's weights in four bits, and say what that costs",
    "run": "run an artefact, and compare it with its ONNX model",
    "report": "one HTML file: the graph by device, times, reasons, memory, kernels",
    "profile": "one timeline of CPU, GPU and NPU, and where the time of a run goes",
    "bench": "time an artefact: spread, memory, minute by minute if asked",
    "compare": "is one measurement of `bench` worse than another? with an exit code",
    "debug": "find the first layer whose numbers leave the reference, on each device",
    "clean": "what the cache takes on disk; remove it",
    "explain": "say what an error's id or a driver's code means, and what to do next",
    "doctor": "check everything that has to be right, here or on a device",
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
_struck: list[int] = []  # signals by which the user ended this process
_TERMINATED = 143  # 128 + SIGTERM
_OUR_BUG = HeteroError.exit_code
_COMPLETION = "--print-completion"
_ALWAYS = "exit code 5: a fault of ours, with a report to attach; 130: Ctrl-C"
_FLAGS = "--flags"  # a file with more of them


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints leave the program as all others do."""

    verb: str | None = None  # whose help is meant where it is known

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        flag = re.fullmatch(r"argument (.*/)?(--[\w-]+): expected one argument", message)
        if flag is not None:  # or a value that looks like a flag
            message += f" (one that begins with a dash as in {flag[2]}=-1)"
        raise UsageError(f"{message}; see {' '.join(filter(None, (self.prog, self.verb)))} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `hetero-tvm VERB …`; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in argv if word in VERBS), None)
    name = f"hetero-tvm {verb}" if verb else "hetero-tvm"
    try:
        if argv[:1] == [_COMPLETION]:
            return _print_completion(argv[1:])
        argv = _with_flag_files(argv)
        args = build_parser([verb] if verb else []).parse_args(argv)
        _set_up_logging(args)
        code = int(args.run(args))
        if code == ComparisonFailed.exit_code:
            say(_line(name, ComparisonFailed("what was asked does not hold")))
        return code
    except KeyboardInterrupt:
        say(f"{name}: interrupted; nothing was left half-written")
        return _INTERRUPTED
    except Exception as error:
        # Native code in which Ctrl-C arrives, such as a module being imported, may make an error
        # of its own of it.
        if _struck:
            say(f"{name}: interrupted; nothing was left half-written")
            return _INTERRUPTED
        if "--debug" in argv or _is_of_stdout(error):
            raise  # of stdout: `entry` says it, since a result that nobody can read is not one
        known = _as_known(error)
        if known is not None and known.exit_code != _OUR_BUG:
            say(_line(name, known))
            return known.exit_code
        say(_line(name, HeteroError(_bug(error, argv))))
        return _OUR_BUG


def build_parser(verbs: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser of `hetero-tvm`, with the flags of these verbs; of all where not given.

    Without its flags a verb costs no import, and is listed all the same.
    """
    parser = _Parser(
        prog="hetero-tvm",
        description="Compile an ONNX model for a SoC's GPU and NPU at once, and run it.",
        epilog="`hetero-tvm explain ID` says more about an error. For completion by Tab: "
        f"`hetero-tvm {_COMPLETION} bash`, zsh or fish, into your shell's folder for it.",
    )
    parser.add_argument("--version", action="version", version=f"hetero-tvm {__version__}")
    if verbs is not None and len(verbs) == 1:
        parser.verb = verbs[0]
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        if verbs is None or name in verbs:
            _add_verb(subparsers, name, summary)
        else:
            subparsers.add_parser(name, add_help=False, help=summary)
    return parser


def entry() -> int:
    """Entry of the console script and of `python -m hetero_tvm`.

    The verb runs in a child (`crash_watch`), but for `--debug`, which is for debuggers too.
    """
    if "--debug" in sys.argv:
        faulthandler.enable()
        return _entry()
    return crash_watch.watched(_entry, _died)


def _died(number: signal.Signals, notes: str) -> int:
    """What is said of a verb that a signal ended, and its exit code."""
    argv = sys.argv[1:]
    verb = next((word for word in argv if word in VERBS), None)
    name = f"hetero-tvm {verb}" if verb else "hetero-tvm"
    if number == signal.SIGKILL:
        killed = EnvironmentProblem(
            "was killed (SIGKILL): by the system for want of memory, or by somebody; close other "
            "programs, or use a smaller input"
        )
        say(_line(name, killed))
        return killed.exit_code
    if not crash_watch.is_fault(number):
        return 128 + number  # as shells report it
    path = crash_report.write(f"ended by {number.name}\n{notes}", argv)
    work = next((line for line in notes.splitlines() if line.startswith("a thread is in ")), None)
    where = f" while {work}" if work else ""
    said = f"a report to attach is in {path}" if path else "no folder takes a report of it"
    crash = NativeCrash(f"native code crashed ({number.name}){where}; {said}")
    say(_line(name, crash))
    return crash.exit_code


def _entry() -> int:
    """The verb.

    Vendor libraries print to file descriptor 1. It becomes stderr for the whole process, and only
    `emit` writes to the real stdout, so that `--json | jq` always works.
    """
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody ignores it
        signal.signal(signal.SIGINT, _interrupt)
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
        lost = OutputLost(f"the output could not be written: {error.strerror}")
        say(_line("hetero-tvm", lost))
        sys.stdout = Path(os.devnull).open("w")
        return lost.exit_code
    return code


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    """Python's own handler, remembered: not every caller lets its exception through."""
    _struck.append(number)
    signal.default_int_handler(number, frame)


def verb_main(name: str) -> int:
    """Entry of `python -m hetero_tvm.<name>`.

    Its imports came first. Where they have started threads, as NumPy's do, the verb begins once
    more from `python -m hetero_tvm`: nothing may be forked beside threads.
    """
    words = sys.orig_argv
    if crash_watch.has_threads() and f"hetero_tvm.{name}" in words and "--debug" not in words:
        at = words.index(f"hetero_tvm.{name}")
        again = [sys.executable, *words[1:at], "hetero_tvm", name, *words[at + 1 :]]
        os.execv(sys.executable, again)  # the same process: nothing was read or said yet
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
    """The verb's result as one JSON document on stdout, as `schemas/<verb>.json` describes it."""
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
        epilog=f"{module.EXAMPLES.rstrip()}\n{_ALWAYS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    talk = parser.add_argument_group("talk")
    talk.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    talk.add_argument("-q", "--quiet", action="store_true", help="errors only on stderr")
    talk.add_argument("-v", "--verbose", action="count", default=0, help="more; twice for debug")
    talk.add_argument(
        _FLAGS,
        metavar="FILE",
        help="more flags from a file, as if they stood here; later ones win, # begins a comment",
    )
    talk.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    parser.set_defaults(run=module.run)


def _with_flag_files(argv: list[str]) -> list[str]:
    """`argv` with the words of every `--flags FILE` in its place."""
    words: list[str] = []
    rest = iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if name != _FLAGS:
            words.append(word)
            continue
        path = value if equals else next(rest, None)
        if not path:
            raise UsageError(f"{_FLAGS}: name a file")
        try:
            words += shlex.split(Path(path).read_text(), comments=True)
        except (OSError, UnicodeDecodeError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"{_FLAGS} {path}: {why}") from None
    return words


def _set_up_logging(args: argparse.Namespace) -> None:
    level = logging.DEBUG if args.verbose > 1 else logging.INFO if args.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr)
    if not args.verbose:
        warnings.filterwarnings("ignore")


def _print_completion(words: Sequence[str]) -> int:
    """The shell's script that completes verbs, flags and files."""
    try:
        import shtab
    except ImportError:
        raise MissingPackage("run: pip install 'hetero-tvm[completion]'") from None
    if len(words) != 1 or words[0] not in shtab.SUPPORTED_SHELLS:
        raise UsageError(f"{_COMPLETION}: one of {', '.join(shtab.SUPPORTED_SHELLS)}")
    emit(shtab.complete(build_parser(), shell=words[0]))
    return 0


def _line(name: str, error: HeteroError) -> str:
    """`error` on one line, ending with the command that explains it and the codes in it."""
    message = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    codes = "".join(f" {code.words}" for code in vendor_codes.mentioned(message))
    return f"{name}: error: {message} [hetero-tvm explain {error.id}{codes}]"


def _is_of_stdout(error: Exception) -> bool:
    """Whether a write without a file's name failed: the reader is gone, or its disk is full."""
    if not isinstance(error, OSError) or error.filename is not None:
        return False
    return error.errno in (errno.EPIPE, errno.ENOSPC)


def _as_known(error: Exception) -> HeteroError | None:
    """The user's error that `error` is; None where it is a mistake of ours."""
    if isinstance(error, HeteroError):
        return error
    if isinstance(error, MemoryError):
        return EnvironmentProblem("out of memory; close other programs, or use a smaller input")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return CannotWrite(f"{error.filename}: {error.strerror}")
    return None


def _bug(error: Exception, argv: Sequence[str]) -> str:
    first = str(error).strip().splitlines() or [""]
    path = crash_report.write(error, argv)
    said = f"a report to attach is in {path}" if path else "run again with --debug for a report"
    return f"internal error, a bug of ours: {type(error).__name__}: {first[-1][:300]}; {said}"
