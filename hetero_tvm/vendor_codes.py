"""Codes of OpenCL, QNN, FastRPC and ONNX Runtime in words; which of them a message has."""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("vendor_codes.toml")
_ALIASES = {"cl": "OpenCL", "aee": "FastRPC", "onnxruntime": "ORT", "htp": "QNN"}
_NUMBER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|\d+)")
_NAME = re.compile(r"\b(?:CL|QNN|AEE|ORT)_[A-Z][A-Z0-9_]+")
_REMOTE = re.compile(r"\b0[xX]800004[0-9a-fA-F]{2}\b")
# Numbers of QNN, in a message that names it: "error code: 1002", "Error 0x3ea", "err 5005".
_SAID = re.compile(r"(?i)\b(?:code|err(?:or)?|status)\s*[:=]?\s*(\d{4,5}|0x[0-9a-f]+)\b")
_OPENCL = re.compile(r"\bOpenCL error (-\d+)\b")  # as the runtime says what has no name there
_ORT = re.compile(r"\[ONNXRuntimeError\] : (\d+) :")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VendorCode:
    """One code of a driver or library."""

    family: str
    value: int
    name: str
    means: str
    next: str | None
    source: str

    @property
    def words(self) -> str:
        """As the command line takes it and people write it."""
        return f"{self.family} {_written(self.family, self.value)}"


def look_up(words: Sequence[str]) -> list[VendorCode]:
    """What `CL_OUT_OF_RESOURCES`, `QNN 1002`, `0x80000406` or `-5` can mean; several or none.

    A number without a family before it is looked for in all of them.
    """
    family = _family(words[0]) if len(words) > 1 else None
    if len(words) > 1 and family is None:
        return []
    word = words[-1]
    if not _NUMBER.fullmatch(word):
        return [code for code in every() if code.name == word.upper()]
    value = int(word, 0)
    found = [code for name in _families(family) for code in _of(name, value)]
    # Only FastRPC is written in hexadecimal; a bare small decimal is anything.
    if family is None and word.lower().startswith("0x"):
        return [code for code in found if code.family == "FastRPC"] or found
    return found


def mentioned(message: str) -> list[VendorCode]:
    """The codes that a driver's or library's message speaks of, each once."""
    words: list[Sequence[str]] = [[name] for name in _NAME.findall(message)]
    words += [["FastRPC", number] for number in _REMOTE.findall(message)]
    if "qnn" in message.lower():
        words += [["QNN", number] for number in _SAID.findall(message)]
    words += [["OpenCL", number] for number in _OPENCL.findall(message)]
    words += [["ORT", number] for number in _ORT.findall(message)]
    found = {code.name: code for one in words for code in look_up(one)}
    return list(found.values())


@functools.cache
def every() -> tuple[VendorCode, ...]:
    """All codes that have an entry of their own."""
    return tuple(
        _code(family, int(value, 0), row)
        for family, table in _tables().items()
        for value, row in table["codes"].items()
    )


def _of(family: str, value: int) -> Iterator[VendorCode]:
    table = _tables()[family]
    own = value - table.get("remote", value)
    values = {value, own} if own > 0 else {value}
    exact = [code for code in every() if code.family == family and code.value in values]
    if exact:
        yield from (dataclasses.replace(code, value=value) for code in exact)
        return
    for span, what in table.get("ranges", {}).items():
        first, last = map(int, span.split("-"))
        if first <= value <= last:
            yield _code(family, value, {"name": f"{family} {value}", "means": what})


def _code(family: str, value: int, row: dict[str, Any]) -> VendorCode:
    return VendorCode(
        family=family,
        value=value,
        name=row["name"],
        means=row["means"],
        next=row.get("next"),
        source=_tables()[family]["source"],
    )


def _written(family: str, value: int) -> str:
    return hex(value) if family == "FastRPC" else str(value)


def _family(word: str) -> str | None:
    known = {name.lower(): name for name in _tables()}
    return known.get(word.lower()) or _ALIASES.get(word.lower())


def _families(family: str | None) -> list[str]:
    return [family] if family else list(_tables())


@functools.cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text())
