"""Every field of a document is of the type that its dataclass declares."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from hetero_tvm.typed_json import from_object, parse_object


@dataclasses.dataclass(frozen=True)
class Inner:
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    size: int
    share: float
    kind: Literal["a", "b"]
    parts: tuple[Inner, ...]
    by_name: Mapping[str, tuple[int, ...] | None]
    loose: dict[str, Any]
    is_on: bool = False
    inner: Inner | None = None


GOOD = Outer(
    name="n",
    size=3,
    share=0.5,
    kind="b",
    parts=(Inner((1, 2)), Inner(())),
    by_name={"x": (1,), "y": None},
    loose={"anything": [1, {}]},
    inner=Inner((7,)),
)


def test_there_and_back():
    assert from_object(Outer, json.loads(json.dumps(dataclasses.asdict(GOOD)))) == GOOD


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 3}, "name is '3', no str"),
        ({"size": True}, "size is 'True', no int"),
        ({"size": 1.0}, "size is '1.0', no int"),
        ({"share": "1"}, "share is '1', no float"),
        ({"share": 10**400}, "share is '1000"),
        ({"kind": "c"}, "kind is 'c'"),
        ({"is_on": 1}, "is_on is '1', no bool"),
        ({"parts": {}}, "parts is"),
        ({"parts": [{"shape": [1, "2"]}]}, r"parts\[\]\.shape\[\] is '2', no int"),
        ({"parts": [3]}, r"parts\[\]\. is no object"),
        ({"by_name": {"x": 1}}, r"by_name\.x is '1'"),
        ({"inner": {}}, "no field inner.shape"),
        ({"other": 1}, "unknown field other"),
    ],
)
def test_what_is_refused(change, said):
    raw = {**json.loads(json.dumps(dataclasses.asdict(GOOD))), **change}
    with pytest.raises(ValueError, match=said):
        from_object(Outer, raw)


def test_text_that_is_no_object():
    assert parse_object(b'{"a": 1}') == {"a": 1}
    for text in ("[]", "", "{", "1", "[" * 100_000):
        with pytest.raises(ValueError, match=r"."):
            parse_object(text)
    with pytest.raises(ValueError, match="no object"):
        from_object(Outer, [])
