"""A target spec as the TOML text that `loader` reads."""

from __future__ import annotations

import json
import re
from typing import Any

from target_specs.spec import SocSpec, Table

_CITATION = re.compile(
    r"\[([A-Za-z][\w-]*)\]"
)  # would be looked up in [sources], which is not here
_TABLE_WORDS = ("name", "provider")


def to_toml(spec: SocSpec) -> str:
    """The whole file; every figure has its own provenance and source.

    Ensures: reading it gives an equal spec, and the same origin for every figure.
    """
    lines = [f"name = {_text(spec.name)}", f"soc = {_text(spec.soc)}"]
    lines += [f"soc_ids = {list(spec.soc_ids)}", f"source = {_text(spec.source)}"]
    for key in ("memory", "gpu", "npu"):
        table: Table = getattr(spec, key)
        lines += ["", f"[{key}]"]
        lines += [
            f"{word} = {_text(getattr(table, word))}"
            for word in _TABLE_WORDS
            if hasattr(table, word)
        ]
        lines += [f"provenance = {_text(table.provenance)}", f"source = {_text(table.source)}"]
        for figure in table.figures():
            origin = table.origin(figure)
            lines.append(
                f"{figure} = {{ value = {_value(getattr(table, figure))}, "
                f"provenance = {_text(origin.provenance)}, source = {_text(origin.source)} }}"
            )
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, frozenset):
        return json.dumps(sorted(value))
    if isinstance(value, tuple):
        return json.dumps([list(pair) for pair in value])
    return repr(value)


def _text(text: str) -> str:
    return json.dumps(_CITATION.sub(r"(\1)", text), ensure_ascii=False)
