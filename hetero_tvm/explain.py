"""Verb: what an error's id, or a driver's code, means, why it happens, and what to do next."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from hetero_tvm import cli, vendor_codes
from hetero_tvm.catalogue import Entry, entries
from hetero_tvm.errors import BadInput
from hetero_tvm.vendor_codes import VendorCode

EXAMPLES = """\
examples:
  hetero-tvm explain HT2103
  hetero-tvm explain CL_OUT_OF_RESOURCES
  hetero-tvm explain QNN 1002
  hetero-tvm explain 0x80000406
  hetero-tvm explain --list
  hetero-tvm explain --schema build         the JSON Schema of `hetero-tvm build --json`

Families of codes: OpenCL, QNN, FastRPC, ORT (ONNX Runtime).

exit codes: 0 explained, 2 nothing is known of it
"""
_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm explain`."""
    parser.add_argument(
        "what",
        nargs="*",
        metavar="ID",
        help="ids as they end a message; names of a driver's codes, or FAMILY NUMBER",
    )
    parser.add_argument("--list", action="store_true", help="every id and code with its title")
    parser.add_argument(
        "--schema", choices=list(cli.VERBS), metavar="VERB", help="the JSON Schema of its --json"
    )


def run(args: argparse.Namespace) -> int:
    """Look up, print."""
    if [args.list, bool(args.what), args.schema is not None].count(True) != 1:
        raise BadInput("give an id, as in `hetero-tvm explain HT2103`, or --list, or --schema VERB")
    if args.schema is not None:
        cli.emit(schema_file(args.schema).read_text().rstrip())
        return 0
    found: list[Entry | VendorCode]
    found = [*entries().values(), *vendor_codes.every()] if args.list else list(_found(args.what))
    if args.json:
        cli.emit_json("explain", {"entries": [_data(each) for each in found]})
    elif args.list:
        cli.emit("\n".join(map(_line, found)))
    else:
        cli.emit("\n\n".join(map(_text, found)))
    return 0


def schema_file(verb: str) -> Path:
    """The JSON Schema (draft 2020-12) of what the verb prints with `--json`."""
    return Path(__file__).with_name("schemas") / f"{verb}.json"


def _found(words: list[str]) -> Iterator[Entry | VendorCode]:
    """What the words name, in their order; a family belongs to the number after it."""
    left = list(words)
    while left:
        word = left.pop(0)
        if word.upper() in entries():
            yield entries()[word.upper()]
            continue
        codes = vendor_codes.look_up([word])
        if not codes and left:
            codes = vendor_codes.look_up([word, left.pop(0)])
        if not codes:
            raise BadInput(f"{' '.join(words)}: not known; `hetero-tvm explain --list` lists all")
        yield from codes


def _data(found: Entry | VendorCode) -> dict[str, object]:
    kind = "error" if isinstance(found, Entry) else "code"
    return {"kind": kind, **dataclasses.asdict(found)}


def _line(found: Entry | VendorCode) -> str:
    if isinstance(found, Entry):
        return f"{found.id:<20}{found.title}"
    return f"{found.words:<20}{found.name}: {found.means.split('; ')[0].split('. ')[0]}"


def _text(found: Entry | VendorCode) -> str:
    if isinstance(found, VendorCode):
        lines = [f"{found.words}  {found.name}", "", *_wrapped(found.means)]
        if found.next:
            lines += ["", "next", *_wrapped(found.next)]
        return "\n".join([*lines, "", f"source: {found.source}"])
    lines = [f"{found.id}  {found.title}  (exit code {found.exit_code})", ""]
    lines += [*textwrap.wrap(found.means, _WIDTH), "", "likely causes"]
    lines += [line for cause in found.causes for line in _wrapped(cause, "- ")]
    # Not wrapped: commands are there to be copied.
    return "\n".join([*lines, "", "next", *(f"  {step}" for step in found.next)])


def _wrapped(text: str, mark: str = "") -> list[str]:
    indent = "  " + " " * len(mark)
    return textwrap.wrap(text, _WIDTH, initial_indent=f"  {mark}", subsequent_indent=indent)


if __name__ == "__main__":
    sys.exit(cli.verb_main("explain"))
