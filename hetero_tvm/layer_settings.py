"""Which weight is quantised how: one setting for all, and a small file for those that differ.

    # overrides.toml; names are those that the report shows, * stands for anything, later ones win
    [[layer]]
    match = "/model/layers.0/*"
    group = 16

    [[layer]]
    match = "*/lm_head/*"
    bits = 8                   # or keep = true: as it is

The head, whose product is the logits, is kept as it is unless the file names it: it is often the
embedding too, and an error in it is one in every answer.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hetero_tvm.block_quantization import Settings
from hetero_tvm.errors import BadLayerSettings

_FIELDS = {"bits": int, "group": int, "symmetric": bool, "keep": bool}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Override:
    """One table of the file."""

    match: str
    values: Mapping[str, Any]
    where: str  # file and table, for messages


def read_overrides(file: Path) -> tuple[Override, ...]:
    """The tables of `file`.

    Raises:
        BadInput: it cannot be read, or a key or a value is none of those above.
    """
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadLayerSettings(f"{file}: {error}") from None
    unknown = sorted(set(tables) - {"layer"})
    layers = tables.get("layer", [])
    if unknown or not isinstance(layers, list):
        raise BadLayerSettings(
            f"{file}: write [[layer]] tables, found {', '.join(unknown) or 'another'}"
        )
    return tuple(_override(file, number, table) for number, table in enumerate(layers, start=1))


def _override(file: Path, number: int, table: Any) -> Override:
    where = f"{file}: [[layer]] {number}"
    if not isinstance(table, dict):
        raise BadLayerSettings(f"{where}: write a table of settings, not {table!r}")
    values = dict(table)
    match = values.pop("match", None)
    if not isinstance(match, str) or not match:
        raise BadLayerSettings(f'{where}: say which layers, as in match = "*/lm_head/*"')
    for key, value in values.items():
        if key not in _FIELDS:
            raise BadLayerSettings(f"{where}: no key {key}; there are match, {', '.join(_FIELDS)}")
        if type(value) is not _FIELDS[key]:
            raise BadLayerSettings(f"{where}: {key} must be {_FIELDS[key].__name__}, not {value!r}")
    if not values:
        raise BadLayerSettings(
            f"{where}: says nothing of {match}; give one of {', '.join(_FIELDS)}"
        )
    return Override(match=match, values=values, where=where)


def settings_of(
    names: Sequence[str],
    heads: frozenset[str],
    default: Settings,
    overrides: Sequence[Override],
) -> dict[str, Settings | None]:
    """Layer -> its settings, None for what is kept.

    Raises:
        BadInput: an override names no layer, or asks for what cannot be.
    """
    found: dict[str, Settings | None] = {name: None if name in heads else default for name in names}
    for override in overrides:
        matching = [name for name in names if fnmatch.fnmatchcase(name, override.match)]
        if not matching:
            near = difflib.get_close_matches(override.match, names, n=1, cutoff=0.0)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise BadLayerSettings(f"{override.where}: no layer is named {override.match}{hint}")
        values = dict(override.values)
        keep = values.pop("keep", False)
        for name in matching:
            try:
                changed = dataclasses.replace(found[name] or default, **values)
            except ValueError as error:
                raise BadLayerSettings(f"{override.where}: {override.match}: {error}") from None
            found[name] = None if keep else changed
    return found
