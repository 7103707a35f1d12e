"""Plans and kernels of fixed models are what they were, unless a change means to change them."""

from __future__ import annotations

import json

import golden


def test_plans_and_kernels_are_what_they_were():
    lines = golden.changes(json.loads(golden.FILE.read_text()), golden.hashes())
    told = "\n".join(lines)
    assert not lines, f"{told}\nWhere this is meant: `make golden`, and commit tests/golden"


def test_what_a_change_is_called():
    assert golden.changes({"a": "1", "b": "2"}, {"b": "3", "c": "4"}) == [
        *("changed: b", "gone:    a", "new:     c"),
    ]
