"""Softmax, layer norm and reductions over last axes of any length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_gpu import assert_close, kernels, lower, module, normal, run
from tvm import relax

_TOLERANCE = 1e-5  # float32 sums of up to some thousand values, in another order


def _buffers_in_memory(lowered):
    """What the one kernel would store and read again; where there is any, it is several kernels."""
    (kernel,) = kernels(lowered).values()
    buffers = [line for line in kernel.script().splitlines() if "alloc_buffer(" in line]
    assert buffers
    return [line for line in buffers if 'scope="local"' not in line and "shared" not in line]


def _softmax(x: np.ndarray) -> np.ndarray:
    power = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


@settings(max_examples=12, deadline=None)
@given(rows=st.integers(1, 9), length=st.integers(1, 100))
def test_softmax(rows, length):
    x = 20 * normal(rows, 2, rows, length)
    assert_close(run(relax.op.nn.softmax, x), _softmax(x), _TOLERANCE)


@pytest.mark.parametrize("length", [4097, 18710])
def test_softmax_of_rows_too_long_to_keep(length):
    x = normal(1, 3, length)
    assert_close(run(relax.op.nn.softmax, x), _softmax(x), _TOLERANCE)


def test_softmax_of_large_values_does_not_overflow():
    x = np.float32([[1e4, 1e4 - 1, -1e4], [-3e38, -3e38, -3e38]])
    assert_close(run(relax.op.nn.softmax, x), _softmax(x), _TOLERANCE)


@settings(max_examples=12, deadline=None)
@given(rows=st.integers(1, 9), shape=st.lists(st.integers(1, 40), min_size=1, max_size=2))
def test_layer_norm(rows, shape):
    x = 3 * normal(rows, rows, *shape) + 5
    gamma, beta = normal(1, *shape), normal(2, *shape)
    axes = tuple(range(-len(shape), 0))

    def build(v):
        return relax.op.nn.layer_norm(
            v, relax.const(gamma), relax.const(beta), axes=list(axes), epsilon=1e-5
        )

    wide = x.astype(np.float64)
    mean = wide.mean(axes, keepdims=True)
    variance = wide.var(axes, keepdims=True)
    # A row of one value has no spread: what is left is its rounding error over sqrt(epsilon).
    assert_close(run(build, x), (wide - mean) / np.sqrt(variance + 1e-5) * gamma + beta, 1e-4)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 9),
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=2),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_rms_norm(rows, shape, dtype):
    x = (3 * normal(rows, rows, *shape) + 1).astype(dtype)
    gain = normal(1, *shape, dtype=dtype)
    axes = tuple(range(-len(shape), 0))

    def build(v):
        return relax.op.nn.rms_norm(v, relax.const(gain), axes=list(axes), epsilon=1e-5)

    wide = x.astype(np.float64)
    want = wide / np.sqrt((wide**2).mean(axes, keepdims=True) + 1e-5) * gain
    # The result is rounded to its type: 2^-11 of a float16.
    assert_close(run(build, x), want, _TOLERANCE if dtype == "float32" else 2**-11)


@pytest.mark.parametrize("target", ["host", "snapdragon-8-gen-3"])
@pytest.mark.parametrize("rows", [1, 16])
def test_a_norm_is_one_kernel(target, rows):
    def build(x, gain):
        return relax.op.nn.rms_norm(x, gain, axes=[-1])

    lowered = lower(module(build, ((1, rows, 576), "float32"), ((576,), "float32")), target)
    assert _buffers_in_memory(lowered) == []


@settings(max_examples=12, deadline=None)
@given(
    op=st.sampled_from(["sum", "mean", "max", "min"]),
    shape=st.lists(st.integers(1, 21), min_size=3, max_size=3),
    count=st.integers(1, 2),
    keepdims=st.booleans(),
)
def test_reductions(op, shape, count, keepdims):
    x = normal(5, *shape)
    axes = list(range(3 - count, 3))
    got = run(lambda v: getattr(relax.op, op)(v, axis=axes, keepdims=keepdims), x)
    want = getattr(np, op)(x.astype(np.float64), axis=tuple(axes), keepdims=keepdims)
    assert_close(got, want, _TOLERANCE)


def test_producers_are_computed_in_the_row_and_nothing_goes_through_memory():
    def build(x, mask):
        return relax.op.nn.softmax(relax.op.add(relax.op.multiply(x, x), mask))

    lowered = lower(module(build, ((4, 8, 64), "float32"), ((1, 1, 64), "float32")))
    assert _buffers_in_memory(lowered) == []


def test_phones_keep_their_own_reductions():
    x = normal(6, 5, 77)
    got = run(relax.op.nn.softmax, x, target="snapdragon-8-gen-3")
    assert_close(got, _softmax(x), _TOLERANCE)
