"""Which built lengths serve an input, and the cutting and filling of arrays."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from hetero_tvm import lengths
from hetero_tvm.frontend.tensor_spec import TensorSpec
from hetero_tvm.lengths import LengthRules, Piece, filled, part, way
from hetero_tvm.typed_json import from_object

US = {32: 32.0, 64: 50.0, 256: 150.0}


def sizes(found):
    return [(piece.size, piece.length) for piece in found]


def test_a_built_length_runs_as_it_is():
    assert way(64, US, padding=False, chunking=False) == (Piece(start=0, size=64, length=64),)


def test_padding_goes_to_the_next_length():
    assert sizes(way(33, US, padding=True, chunking=False)) == [(33, 64)]
    assert sizes(way(1, US, padding=True, chunking=False)) == [(1, 32)]
    assert way(257, US, padding=True, chunking=False) is None
    assert way(33, US, padding=False, chunking=False) is None


def test_padding_goes_to_the_cheapest_length_that_is_long_enough():
    dear = {32: 32.0, 64: 50.0, 80: 200.0, 256: 150.0}
    assert sizes(way(70, dear, padding=True, chunking=False)) == [(70, 256)]
    assert sizes(way(65, {32: 90.0, 80: 200.0, 256: 150.0}, padding=True, chunking=True)) == [
        (65, 256)
    ]


def test_chunking_fills_the_last_piece():
    found = way(300, US, padding=True, chunking=True)
    assert sizes(found) == [(256, 256), (44, 64)]
    assert [piece.start for piece in found] == [0, 256]
    assert lengths.words(found) == "256 + 44 -> 64"


def test_the_cheaper_of_filling_and_cutting_is_taken():
    assert sizes(way(70, US, padding=True, chunking=True)) == [(64, 64), (6, 32)]  # 82 < 150
    assert sizes(way(240, US, padding=True, chunking=True)) == [(240, 256)]  # 150 < 4 x 50


@pytest.mark.parametrize("us", [US, {3: 1.0, 5: 9.0, 8: 2.0}, {4: 5.0}, {2: 3.0, 7: 7.0}])
def test_no_way_is_cheaper(us):
    for size in range(1, 40):
        found = way(size, us, padding=True, chunking=True)
        assert sum(piece.size for piece in found) == size
        assert all(0 < piece.size <= piece.length for piece in found)
        assert all(piece.size == piece.length for piece in found[:-1])
        if size in us:
            continue  # a plan for the very length is followed
        spent = sum(us[piece.length] for piece in found)
        best = min(
            sum(us[length] for length in choice)
            for count in range(1, -(-size // min(us)) + 1)
            for choice in itertools.combinations_with_replacement(us, count)
            if sum(choice) >= size
        )
        assert spent <= best or _fills_beyond_the_next(size, us, best)


def _fills_beyond_the_next(size, us, best):
    """A longer function than the next one could be faster by its plan; it is not proven."""
    return any(us[length] < us[shorter] for length in us for shorter in us if shorter < length)


def test_a_very_long_input_is_cut_at_once():
    found = way(10_000_000, US, padding=True, chunking=True)
    assert sum(piece.size for piece in found) == 10_000_000
    assert lengths.words(found).startswith("256 + 256 + ... + ")


def test_rules_survive_json():
    rules = LengthRules(
        input_axes={"x": (0, 1)},
        output_axes={"y": (1,)},
        fill={"x": 0.0},
        padding=True,
        padding_words="holds",
        chunking=False,
        chunking_words="not",
    )
    assert from_object(LengthRules, json.loads(json.dumps(dataclasses.asdict(rules)))) == rules
    x, y = (TensorSpec(name=name, dtype="float32", shape=(8, 8)) for name in "xy")
    rules.check([x], [y])
    for wrong, said in (
        ({"input_axes": {"x": (2,)}}, "x has no axes"),
        ({"output_axes": {"z": (0,)}}, "z has no axes"),
        ({"input_axes": {"x": ()}}, "x has no axes"),
        ({"input_axes": {}}, "no input carries the length"),
        ({"fill": {}}, "cannot be filled up"),
    ):
        with pytest.raises(ValueError, match=said):
            dataclasses.replace(rules, **wrong).check([x], [y])


def test_parts_are_views_and_filling_keeps_the_elements():
    x = np.arange(12).reshape(3, 4)
    assert part(x, (1,), 1, 2).base is not None
    np.testing.assert_array_equal(part(x, (1,), 1, 2), x[:, 1:3])
    np.testing.assert_array_equal(filled(x, (0,), 4, 7), [*x, [7] * 4])
    assert filled(x, (0,), 3, 7) is x


@pytest.mark.parametrize("chunking", [False, True])
def test_the_least_time_of_every_length(chunking):
    us = {3: 1.0, 5: 9.0, 8: 2.5}
    found = lengths.least_us(8, us, chunking=chunking)
    assert found[0] == 0.0
    for size in range(1, 9):
        best = way(size, us, padding=True, chunking=chunking)
        spent = sum(us[piece.length] for piece in best)
        assert found[size] == (spent if size not in us else min(found[size], spent))
