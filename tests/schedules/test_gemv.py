"""Products of few rows by groups whose items share the depth: right, and only where that suits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from on_gpu import assert_close, gpu_spec, kernels, lower, module, normal, run_lowered
from tvm import relax

from schedules.gemv import MAX_ROWS, split_depth_tile

_PHONE = "snapdragon-8-gen-3"
# float32 sums of up to a thousand products, in another order.
_TOLERANCE = 1e-5


def _run(x: np.ndarray, weight: np.ndarray, *, shares: bool) -> np.ndarray:
    bias = relax.const(normal(7, weight.shape[1]))

    def build(data):
        product = relax.op.matmul(data, relax.const(weight))
        return relax.op.nn.relu(relax.op.add(product, bias))

    lowered = lower(module(build, (x.shape, "float32")), _PHONE)
    (kernel,) = kernels(lowered).values()
    assert ('scope="shared"' in kernel.script()) == shares
    (got,) = run_lowered(lowered, [x], target=_PHONE)
    want = np.maximum(x.astype(np.float64) @ weight + normal(7, weight.shape[1]), 0)
    assert_close(got, want, _TOLERANCE)


@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [
        pytest.param(1, 1024, 48, id="one_row"),
        pytest.param(1, 768, 50, id="columns_that_fill_no_panel"),
        pytest.param(3, 512, 20, id="rows_that_do_not_divide_the_items"),
        pytest.param(4, 320, 33, id="few_items"),
        pytest.param(MAX_ROWS, 512, 16, id="most_rows"),
    ],
)
def test_is_right(rows, depth, columns):
    splits = split_depth_tile(gpu_spec(_PHONE), rows, depth) is not None
    _run(normal(1, rows, depth), normal(2, depth, columns), shares=splits or rows > 1)


def test_a_depth_that_leaves_items_without_work_is_not_split():
    assert split_depth_tile(gpu_spec(_PHONE), 1, 20) is None
    _run(normal(1, 1, 20), normal(2, 20, 40), shares=False)


def test_every_item_has_as_many_steps():
    tile = split_depth_tile(gpu_spec(_PHONE), 1, 11008)
    assert tile is not None
    assert 11008 % tile.items_k == 0


def test_limits_of_the_device():
    phone = gpu_spec(_PHONE)
    small = dataclasses.replace(phone, max_work_group_size=64, local_memory_bytes=2048)
    tile = split_depth_tile(small, 1, 4096)
    assert tile is not None
    assert tile.items_k <= 64
    assert split_depth_tile(small, MAX_ROWS, 4096) is None  # the sums do not fit local memory
    assert split_depth_tile(phone, MAX_ROWS + 1, 4096) is None
    assert split_depth_tile(gpu_spec(), 1, 4096) is None  # an item is a core
