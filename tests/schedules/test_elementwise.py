"""Copies and arithmetic of any shape are right, and vectorised where they can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_gpu import assert_close, kernels, lower, module, normal, run
from tvm import relax

_SHAPE = st.lists(st.integers(1, 20), min_size=1, max_size=4)


@settings(max_examples=15, deadline=None)
@given(shape=_SHAPE, data=st.data())
def test_broadcast_arithmetic(shape, data):
    other = [data.draw(st.sampled_from([1, n])) for n in shape]
    x, y = normal(1, *shape), normal(2, *other)
    got = run(lambda a, b: relax.op.nn.relu(relax.op.subtract(a, b)), x, y)
    assert_close(got, np.maximum(x - y, 0), 1e-6)


@settings(max_examples=12, deadline=None)
@given(shape=_SHAPE, data=st.data())
def test_transposes(shape, data):
    axes = data.draw(st.permutations(range(len(shape))))
    x = normal(3, *shape)
    got = run(lambda a: relax.op.permute_dims(a, axes), x)
    np.testing.assert_array_equal(got, x.transpose(axes))


@settings(max_examples=10, deadline=None)
@given(
    parts=st.lists(st.integers(1, 33), min_size=2, max_size=4),
    axis=st.integers(0, 2),
    pad=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_concat_then_pad_on_the_last_axis(parts, axis, pad):
    shape = [3, 5, 7]
    arrays = [normal(n, *shape[:axis], size, *shape[axis + 1 :]) for n, size in enumerate(parts)]

    def build(*xs):
        return relax.op.nn.pad(relax.op.concat(list(xs), axis), [0, 0, 0, 0, *pad])

    want = np.pad(np.concatenate(arrays, axis), [(0, 0), (0, 0), pad])
    np.testing.assert_array_equal(run(build, *arrays), want)


@pytest.mark.parametrize("target", ["host", "snapdragon-8-gen-3"])
def test_gather_slice_and_cast(target):
    table, rows = normal(4, 50, 24), np.int64([[3, 0, 49], [7, 7, 1]])

    def build(a, b):
        taken = relax.op.take(a, b, axis=0)
        return relax.op.astype(relax.op.strided_slice(taken, [2], [5], [20], [3]), "int32")

    got = run(build, table, rows, target=target)
    np.testing.assert_array_equal(got, table[rows][..., 5:20:3].astype("int32"))


def test_vectors_do_not_cross_a_concat_border():
    types = [((1, 8, 8, 24), "float32"), ((1, 8, 8, 24), "float32")]
    lowered = lower(module(lambda a, b: relax.op.concat([a, b], 3), *types))
    (kernel,) = kernels(lowered).values()
    assert "T.vectorized(T.int64(8))" in kernel.script()  # not 16, which divides 48 but not 24


def test_flat_arithmetic_uses_full_vectors_whatever_the_last_axis():
    lowered = lower(module(relax.op.add, *[((4, 4, 3), "float32")] * 2))
    (kernel,) = kernels(lowered).values()
    assert "T.vectorized(T.int64(16))" in kernel.script()


def test_a_single_value():
    got = run(relax.op.add, np.float32(2.0).reshape(()), np.float32(3.0).reshape(()))
    assert got == 5.0


@pytest.mark.parametrize("target", ["host", "snapdragon-8-gen-3"])
def test_nothing_at_all(target):
    x = normal(5, 20, 4, 5)
    got = run(lambda a: relax.op.strided_slice(a, [1], [2], [2]), x, target=target)
    assert got.shape == (20, 0, 5)
