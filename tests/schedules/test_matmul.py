"""Products of any shape are right on the device, and run as register tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_gpu import assert_close, kernels, lower, module, normal, run, run_lowered
from tvm import relax

# float32 sums of up to a few hundred products, in another order: eps * sqrt(depth) and some room.
_TOLERANCE = 1e-5
_SIZES = st.integers(1, 70)


@settings(max_examples=12, deadline=None)
@given(rows=_SIZES, columns=_SIZES, depth=_SIZES, seed=st.integers(0, 99))
def test_constant_weight_with_an_epilogue(rows, columns, depth, seed):
    weight, bias = normal(seed, depth, columns), normal(seed + 1, columns)

    def build(x):
        product = relax.op.matmul(x, relax.const(weight))
        return relax.op.nn.relu(relax.op.add(product, relax.const(bias)))

    x = normal(seed + 2, rows, depth)
    want = np.maximum(x.astype(np.float64) @ weight + bias, 0)
    assert_close(run(build, x), want, _TOLERANCE)


@pytest.mark.parametrize("target", ["host", "snapdragon-8-gen-3"])
# float16 results of float32 sums: half a unit in the last place, and the bias added in float16.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", _TOLERANCE), ("float16", 2e-3)])
@settings(max_examples=6, deadline=None)
@given(rows=_SIZES, columns=_SIZES, depth=_SIZES)
def test_stored_transposed(target, dtype, tolerance, rows, columns, depth):
    weight, bias = normal(1, depth, columns, dtype=dtype), normal(2, columns, dtype=dtype)

    def build(x):
        product = relax.op.add(relax.op.matmul(x, relax.const(weight)), relax.const(bias))
        return relax.op.permute_dims(relax.op.nn.relu(product), [2, 0, 1])

    x = normal(3, 1, rows, depth, dtype=dtype)
    lowered = lower(module(build, (x.shape, dtype)), target)
    (kernel,) = kernels(lowered).values()
    assert 'scope="local"' in kernel.script()
    (got,) = run_lowered(lowered, [x], target=target)
    want = np.maximum(x.astype(np.float64) @ weight + bias, 0).transpose(2, 0, 1)
    assert_close(got, want, tolerance)


@pytest.mark.parametrize("axes", [(0, 2, 1, 3), (3, 1, 0, 2), (0, 1, 3, 2)])
def test_a_batch_stored_permuted(axes):
    x, y = normal(1, 2, 3, 37, 41), normal(2, 2, 3, 41, 18)

    def build(a, b):
        return relax.op.permute_dims(relax.op.matmul(a, b), list(axes))

    want = (x.astype(np.float64) @ y).transpose(axes)
    assert_close(run(build, x, y), want, _TOLERANCE)


@settings(max_examples=10, deadline=None)
@given(batch=st.integers(1, 4), rows=_SIZES, columns=_SIZES, depth=_SIZES)
def test_both_sides_computed(batch, rows, columns, depth):
    x, y = normal(1, batch, rows, depth), normal(2, batch, depth, columns)
    assert_close(run(relax.op.matmul, x, y), x.astype(np.float64) @ y, _TOLERANCE)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        pytest.param((2, 3, 5, 7), (7, 9), id="leading_axes_become_rows"),
        pytest.param((2, 1, 5, 7), (1, 3, 7, 16), id="both_sides_broadcast"),
        pytest.param((5, 7), (3, 7, 4), id="left_side_broadcasts"),
        pytest.param((1, 300), (300, 1000), id="one_row"),
        pytest.param((64, 40), (40, 600), id="repacked_for_many_rows"),
        pytest.param((7,), (7, 4), id="vector_times_matrix"),
        # With tiles of eight rows Intel's compiler crashes on this kernel.
        pytest.param((1, 17, 5), (1, 5, 46), id="a_driver_crashed_on_it"),
    ],
)
def test_shapes(left, right):
    x, y = normal(3, *left), normal(4, *right)
    assert_close(run(relax.op.matmul, x, y), np.matmul(x.astype(np.float64), y), _TOLERANCE)


@pytest.mark.parametrize("target", ["host", "snapdragon-8-gen-3"])
@pytest.mark.parametrize(
    ("left", "permutations", "right"),
    [
        pytest.param((50, 1, 37), [(1, 2, 0)], (50, 70), id="a_joined_weight_split"),
        pytest.param((2, 37, 3, 41), [(0, 2, 1, 3)], (2, 3, 41, 18), id="heads"),
        pytest.param((3, 37, 41), [(0, 2, 1), (1, 0, 2)], (37, 18), id="two_in_a_row"),
    ],
)
def test_a_permuted_left_side_is_read_where_it_lies(target, left, permutations, right):
    x, y = normal(3, *left), normal(4, *right)
    weight = relax.const(y)

    def build(v):
        for axes in permutations:
            v = relax.op.permute_dims(v, list(axes))
        return relax.op.matmul(v, weight)

    lowered = lower(module(build, (x.shape, "float32")), target)
    assert len(kernels(lowered)) == 1
    (got,) = run_lowered(lowered, [x], target=target)
    want = x.astype(np.float64)
    for axes in permutations:
        want = want.transpose(axes)
    assert_close(got, want @ y, _TOLERANCE)


def test_the_epilogue_is_in_the_kernel_and_sums_stay_in_registers():
    weight = relax.const(normal(5, 64, 96))

    def build(x, skip):
        return relax.op.nn.relu(relax.op.add(relax.op.matmul(x, weight), skip))

    lowered = lower(module(build, ((32, 64), "float32"), ((32, 96), "float32")))
    (kernel,) = kernels(lowered).values()
    assert 'scope="local"' in kernel.script()
    assert "T.vectorized" in kernel.script()


@pytest.mark.parametrize("target", ["snapdragon-8-gen-3", "host"])
def test_groups_respect_the_limits(target):
    from on_gpu import gpu_spec

    from schedules.register_tile import choose_tile

    gpu = gpu_spec(target)
    for rows in (1, 7, 64, 4096):
        for columns in (1, 15, 96, 4096):
            tile = choose_tile(gpu, rows, columns)
            assert tile.items_x * tile.items_y <= gpu.max_work_group_size


def test_a_schedule_for_phones_gives_the_same_numbers():
    x, weight = normal(6, 37, 50), normal(7, 50, 70)
    got = run(lambda v: relax.op.matmul(v, relax.const(weight)), x, target="snapdragon-8-gen-3")
    assert_close(got, x.astype(np.float64) @ weight, _TOLERANCE)
