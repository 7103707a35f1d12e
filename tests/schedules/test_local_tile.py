"""Contractions through local memory: right for any shape, within the device's limits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_gpu import assert_close, gpu_spec, kernels, lower, module, normal, run_lowered
from tvm import relax

from schedules.local_tile import product_tile, shared_tile

_PHONE = "snapdragon-8-gen-3"
# float32 sums of up to a few hundred products, in another order.
_TOLERANCE = 1e-5


def _run(build, *arrays: np.ndarray, shares: bool = True) -> np.ndarray:
    types = [(array.shape, str(array.dtype)) for array in arrays]
    lowered = lower(module(build, *types), _PHONE)
    scripts = [kernel.script() for kernel in kernels(lowered).values()]
    assert any('scope="shared"' in script for script in scripts) == shares
    (got,) = run_lowered(lowered, list(arrays), target=_PHONE)
    return got


@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(9, 150), columns=st.integers(1, 150), depth=st.sampled_from([4, 24, 40, 64])
)
def test_any_rows_and_columns(rows, columns, depth):
    x, weight = normal(1, rows, depth), normal(2, depth, columns)
    got = _run(lambda data: relax.op.matmul(data, relax.const(weight)), x)
    assert_close(got, x.astype(np.float64) @ weight, _TOLERANCE)


def test_half_is_summed_in_float():
    x, weight = normal(1, 40, 64, dtype="float16"), normal(2, 64, 70, dtype="float16")
    got = _run(lambda data: relax.op.matmul(data, relax.const(weight)), x)
    # The result is rounded to float16 once.
    assert_close(got, x.astype(np.float64) @ weight, 1e-3)


def test_both_sides_computed_and_the_left_one_permuted():
    x, y = normal(1, 2, 32, 3, 48), normal(2, 2, 3, 48, 64)

    def build(a, b):
        return relax.op.matmul(relax.op.permute_dims(a, [0, 2, 1, 3]), b)

    want = np.matmul(x.astype(np.float64).transpose(0, 2, 1, 3), y)
    assert_close(_run(build, x, y), want, _TOLERANCE)


@pytest.mark.parametrize(("channels", "shares"), [(16, True), (3, False)])
def test_a_convolution(channels, shares):
    x, weight = normal(1, 1, channels, 12, 12), normal(2, 40, channels, 3, 3)
    got = _run(
        lambda data: relax.op.nn.conv2d(data, relax.const(weight), padding=1), x, shares=shares
    )
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    assert_close(got, np.einsum("nchwij,ocij->nohw", windows, weight), _TOLERANCE)


@given(
    rows=st.integers(1, 5000),
    columns=st.integers(1, 5000),
    depth=st.integers(1, 5000),
    items=st.sampled_from([16, 64, 128, 256, 1024]),
    local_bytes=st.sampled_from([1024, 8192, 32768]),
)
def test_fits_the_device(rows, columns, depth, items, local_bytes):
    phone = dataclasses.replace(
        gpu_spec(_PHONE), max_work_group_size=items, local_memory_bytes=local_bytes
    )
    tile = shared_tile(phone, (1, rows, columns), depth)
    if tile is None:
        tile = product_tile(phone, (1, rows, columns), depth)
        assert not tile.local_depth
    else:
        floats = tile.local_depth * (tile.group_rows + 4 + tile.panel)
        assert 4 * floats <= local_bytes
        assert depth % tile.local_depth == 0
    assert tile.items_x * tile.items_y <= items


def test_an_item_that_is_a_core_shares_nothing():
    assert shared_tile(gpu_spec(), (1, 512, 512), 512) is None
