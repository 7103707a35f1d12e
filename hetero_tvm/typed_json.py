"""Dataclasses out of JSON that nobody vouches for: every field is of the type that it is declared.

What is behind the reading may use a field without asking again; what a field *means* (a size that
is positive, a name that exists) is its owner's to check.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import functools
import json
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_TABLES = (dict, collections.abc.Mapping)
_LISTS = (list, tuple, collections.abc.Sequence)


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object that `text` is; ValueError where it is none, or nests too deep."""
    try:
        raw = json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    if not isinstance(raw, dict):
        raise ValueError("not an object")
    return raw


def from_object(cls: type[T], raw: Any, where: str = "") -> T:
    """A `cls`, a dataclass, of the parsed JSON document `raw`.

    Raises:
        ValueError: a field is missing, unknown or of another type; it names the field.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"{where or 'it'} is no object")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in raw:
        if name not in fields:
            raise ValueError(f"unknown field {where}{name}")
    values = {}
    hints = _hints(cls)  # type: ignore[arg-type]
    for name, field in fields.items():
        if name in raw:
            values[name] = _value(hints[name], raw[name], f"{where}{name}")
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"no field {where}{name}")
    return cls(**values)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _value(hint: Any, raw: Any, where: str) -> Any:
    kind, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return raw
    if kind in (Union, types.UnionType):
        if raw is None and type(None) in parts:
            return None
        (hint,) = (part for part in parts if part is not type(None))
        return _value(hint, raw, where)
    if kind is Literal:
        if raw in parts:
            return raw
    elif dataclasses.is_dataclass(hint):
        return from_object(hint, raw, f"{where}.")  # type: ignore[arg-type]
    elif kind in _TABLES:
        if isinstance(raw, dict):
            return {key: _value(parts[1], item, f"{where}.{key}") for key, item in raw.items()}
    elif kind in _LISTS:
        if isinstance(raw, list):
            return tuple(_value(parts[0], item, f"{where}[]") for item in raw)
    elif hint is float:
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            with contextlib.suppress(OverflowError):  # a whole number that no float is
                return float(raw)
    elif type(raw) is hint:
        return raw
    raise ValueError(f"{where} is {str(raw)[:40]!r}, no {getattr(hint, '__name__', hint)}")
