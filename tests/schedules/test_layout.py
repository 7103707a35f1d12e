"""Panels hold the weight, zeros beside it, and index arithmetic goes there and back."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax, tirx

from schedules.layout import (
    accumulator_dtype,
    broadcast_index,
    pack_panels,
    ravel,
    static_shape,
    unravel,
)


@pytest.mark.parametrize(("columns", "panel"), [(16, 16), (1, 16), (33, 8)])
def test_panels_hold_every_column_once_and_zeros_after(columns, panel):
    weight = np.arange(1, 1 + 5 * columns, dtype="float32").reshape(5, columns)
    panels = pack_panels(weight, panel)  # [strips, 5, panel]
    assert panels.shape == (-(-columns // panel), 5, panel)
    flat = panels.transpose(1, 0, 2).reshape(5, -1)
    np.testing.assert_array_equal(flat[:, :columns], weight)
    assert not flat[:, columns:].any()


def test_leading_axes_are_kept():
    assert pack_panels(np.zeros((2, 3, 4, 6)), 4).shape == (2, 3, 2, 4, 4)


def test_ravel_undoes_unravel():
    shape = (2, 3, 4)
    for flat in range(24):
        index = unravel(flat, shape)
        assert tuple(index) == np.unravel_index(flat, shape)
        assert ravel(index, shape) == flat


def test_broadcast_index_drops_and_zeroes():
    i, j, k = (tirx.Var(name, "int32") for name in "ijk")
    index = broadcast_index([i, j, k], [1, 5])
    assert index[0] == 0
    assert index[1].same_as(k)


def test_half_sums_are_wide():
    assert accumulator_dtype("float16") == "float32"
    assert accumulator_dtype("int32") == "int32"


def test_unknown_shapes_are_none():
    n = tirx.Var("n", "int64")
    assert static_shape(relax.Var("x", relax.TensorType((2, 3), "float32"))) == (2, 3)
    assert static_shape(relax.Var("x", relax.TensorType((n, 3), "float32"))) is None
