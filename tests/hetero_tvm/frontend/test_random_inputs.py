"""Inputs that fit how a graph uses them, and the same ones for the same seed."""

import numpy as np
import pytest

from hetero_tvm.frontend import draw_inputs, import_model, random_inputs
from hetero_tvm.frontend.random_inputs import InputRange, input_ranges, ranges_at
from tests.hetero_tvm.frontend.onnx_cases import (
    FLOAT,
    INT64,
    UINT8,
    model,
    node,
    randn,
    save,
)


@pytest.fixture
def encoder(tmp_path):
    """Ids into tables of 7 and 5 rows, a mask, a rate to choose, a picture, and numbers."""
    nodes = [
        node("Gather", "big ids", "a"),
        node("Gather", "small ids", "b"),
        node("Add", "a b", "e"),
        node("Unsqueeze", "mask axis", "m1"),
        node("Cast", "m1", "m", to=FLOAT),
        node("Mul", "e m", "masked"),
        node("Equal", "rate known", "is"),
        node("Cast", "is", "isf", to=FLOAT),
        node("Cast", "picture", "pf", to=FLOAT),
        node("Mul", "masked isf", "y1"),
        node("Add", "y1 pf", "y2"),
        node("Add", "y2 noise", "y"),
    ]
    inputs = {
        "ids": (INT64, [64, 8]),
        "mask": (INT64, [64, 8]),
        "rate": (INT64, []),
        "picture": (UINT8, [64, 8, 1]),
        "noise": [64, 8, 3],
    }
    weights = {
        "big": randn(7, 3),
        "small": randn(5, 3),
        "axis": np.array([2]),
        "known": np.array([16000]),
    }
    return import_model(save(model(nodes, inputs, "y", weights), tmp_path))


def test_kinds(encoder):
    assert {entry.name: entry.kind for entry in encoder.ranges} == {
        "ids": "index",
        "mask": "mask",
        "rate": "choice",
        "picture": "full",
        "noise": "normal",
    }


def test_values(encoder):
    drawn = draw_inputs(encoder.ranges, 0)
    assert set(np.unique(drawn["ids"])) == set(range(5))  # the smaller table
    assert set(np.unique(drawn["mask"])) == {0, 1}
    assert drawn["mask"].sum(axis=-1).min() >= 1
    assert drawn["rate"] == 16000
    assert drawn["picture"].max() > 200
    assert abs(drawn["noise"].std() - 1) < 0.1
    for spec in encoder.inputs:
        assert (drawn[spec.name].dtype.name, drawn[spec.name].shape) == (spec.dtype, spec.shape)


def test_seeds(encoder):
    first, again, other = (random_inputs(encoder.onnx_model, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["noise"], other["noise"])


def test_a_row_of_zeros_gets_a_one(tmp_path):
    nodes = [node("Cast", "m", "y", to=FLOAT)]
    imported = import_model(save(model(nodes, {"m": (INT64, [512, 2])}, "y"), tmp_path))
    assert draw_inputs(imported.ranges, 3)["m"].sum(axis=-1).min() == 1


def test_ranges_of_another_length():
    ranges = tuple(
        InputRange(name=name, dtype="float32", shape=(2, 8, 8), kind="normal") for name in "ab"
    )
    longer = ranges_at(ranges, {"a": (1, 2)}, 9)
    assert [entry.shape for entry in longer] == [(2, 9, 9), (2, 8, 8)]
    assert draw_inputs(longer, 0)["a"].shape == (2, 9, 9)


def test_a_table_without_the_axis_says_nothing():
    """A node that cannot be, beside what an output needs: it is not imported, only looked at."""
    proto = model(
        [node("Gather", "big ids", "a", axis=5), node("GatherND", "big ids", "b")],
        {"ids": (INT64, [2])},
        "a b",
        {"big": np.float32(1)},
    )
    (ids,) = input_ranges(proto)
    assert ids.kind == "mask"
