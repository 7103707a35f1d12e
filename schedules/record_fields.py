"""The fields of a tuning record, by its type; checked, since others may have written it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Record = dict[str, Any]

_LONGEST_S = 1e9  # of a measurement
_WHERE = {"device", "driver", "limits"}


def is_record(entry: Record) -> bool:
    """Has it what its type has? A record may come from somebody else, with a checksum that fits."""
    kind = entry.get("type")
    fields = TYPES.get(kind) if isinstance(kind, str) else None
    if fields is None:
        return False
    may_be = OPTIONAL.get(entry["type"], {})
    return all(name in entry and is_it(entry[name]) for name, is_it in fields.items()) and all(
        is_it(entry[name]) for name, is_it in may_be.items() if name in entry
    )


def _is_ratio(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_time(value: Any) -> bool:
    """A number of seconds that a division may be by."""
    return type(value) in (int, float) and 0 < value < _LONGEST_S


def _is_where(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == _WHERE and all(map(_is_text, value.values()))


def _is_choice(value: Any) -> bool:
    if not isinstance(value, dict) or not _is_text(value.get("sketch")):
        return False
    return all(
        name == "sketch" or (isinstance(part, list) and all(type(n) is int for n in part))
        for name, part in value.items()
    )


def _are_parameters(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and isinstance(pair[0], list)
        and all(type(n) is int and n >= 0 for n in pair[0])
        and _is_text(pair[1])
        for pair in value
    )


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _may_be_time(value: Any) -> bool:
    return value is None or _is_time(value)


_PLACED = {"key": _is_text, "where": _is_where}
# Type of a record -> what it has, and how one tells.
TYPES: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "kernel": {
        "key": _is_text,
        "name": _is_text,
        "family": _is_text,
        "parameters": _are_parameters,
    },
    "default": {**_PLACED, "seconds": _may_be_time, "good": _is_bool, "reason": _is_text},
    "trial": {**_PLACED, "choice": _is_choice, "seconds": _may_be_time},
    "verdict": {
        **_PLACED,
        "choice": _is_choice,
        "good": _is_bool,
        "reason": _is_text,
        "scheduled": _is_text,
    },
    "race": {**_PLACED, "choice": _is_choice, "seconds": _is_time, "default": _is_time},
}
# What a record may have, written since a later version.
OPTIONAL: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "race": {"gain": _is_ratio, "low": _is_ratio, "high": _is_ratio},
}
