"""Pooling, means over the plane, sums over rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_gpu import assert_close, kernels, lower, module, normal, run
from tvm import relax


@settings(max_examples=10, deadline=None)
@given(
    kind=st.sampled_from(["max_pool2d", "avg_pool2d"]),
    channels=st.integers(1, 33),
    size=st.tuples(st.integers(3, 12), st.integers(3, 12)),
    window=st.integers(1, 3),
    stride=st.integers(1, 2),
)
def test_pooling(kind, channels, size, window, stride):
    x = normal(1, 1, channels, *size)
    pool = getattr(relax.op.nn, kind)
    got = run(lambda v: pool(v, pool_size=[window] * 2, strides=[stride] * 2), x)
    views = np.lib.stride_tricks.sliding_window_view(x, (window, window), (2, 3))
    views = views[:, :, ::stride, ::stride]
    want = views.max((-1, -2)) if kind == "max_pool2d" else views.mean((-1, -2))
    assert_close(got, want, 1e-5)


@pytest.mark.parametrize("target", ["host", "snapdragon-8-gen-3"])
@pytest.mark.parametrize("axis", [0, 1])
def test_sum_over_leading_axes(axis, target):
    x = normal(2, 13, 9, 21)
    got = run(lambda v: relax.op.sum(v, axis=[axis]), x, target=target)
    assert_close(got, x.astype(np.float64).sum(axis), 1e-5)


@pytest.mark.parametrize("shape", [(3, 2, 2), (1, 2, 1), (5, 2, 67)])
def test_less_work_than_items(shape):
    x = normal(3, *shape)
    for op, reduce in ((relax.op.prod, np.prod), (relax.op.max, np.max)):
        got = run(lambda v, op=op: op(v, axis=[1]), x, target="snapdragon-8-gen-3")
        assert_close(got, reduce(x.astype(np.float64), axis=1), 1e-5)


def test_the_producer_and_the_epilogue_are_in_the_kernel():
    def build(x):
        squares = relax.op.multiply(x, x)
        return relax.op.sum(squares, axis=[1])

    lowered = lower(module(build, ((1, 64, 48), "float32")))
    (kernel,) = kernels(lowered).values()
    assert "T.vectorized" in kernel.script()
    assert 'scope="local"' in kernel.script()
