"""Changes to a document that leave it JSON: other kinds of values, fields missing or double."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

_VALUES = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 2**63, -(2**63), 10**400),
    *(0.5, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", "\ud800", "\0", "../x", "/dev/zero", "float32", "float16x4", "int4", "x" * 300),
    *([], {}, [[]], [0] * 20, [{}], {"": None}),
)
Place = tuple[Any, Any]  # what holds a value, and its key there


def mutate(
    data: bytes, size: int, rng: random.Random, other: Callable[[bytes, int], bytes]
) -> bytes:
    """`data` changed, at most `size` bytes; by `other` where it is no document, and now and then.

    What stands before the first brace stays: targets choose by it.
    """
    start = data.find(b"{")
    try:
        document = json.loads(data[max(start, 0) :])
    except (ValueError, RecursionError):
        return other(data, size)
    if start < 0 or rng.random() < 0.1:
        return other(data, size)
    whole = [document]
    for _ in range(rng.randint(1, 3)):
        _change(rng, list(_places(whole)))
    try:
        changed = data[:start] + json.dumps(whole[0]).encode()
    except (ValueError, RecursionError):
        return other(data, size)
    return changed if len(changed) <= size else other(data, size)


def _places(holder: Any) -> Iterator[Place]:
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    for key in keys:
        yield holder, key
        if isinstance(holder[key], dict | list):
            yield from _places(holder[key])


def _change(rng: random.Random, places: list[Place]) -> None:
    holder, key = rng.choice(places)
    value = holder[key]
    how = rng.random()
    if how < 0.15 and len(places) > 1 and holder is not places[0][0]:
        del holder[key]
    elif how < 0.3 and isinstance(value, list) and value:
        value.append(json.loads(json.dumps(rng.choice(value))))
    elif how < 0.4 and isinstance(value, dict):
        value[f"field{rng.randrange(3)}"] = rng.choice(_VALUES)
    elif how < 0.6 and isinstance(value, int):
        holder[key] = value + rng.choice((-1, 1, 127, 4096, 2**32))
    elif how < 0.7:
        other, its = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[its]))
    else:
        holder[key] = json.loads(json.dumps(rng.choice(_VALUES)))
