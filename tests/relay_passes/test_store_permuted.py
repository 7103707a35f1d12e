"""A transpose behind a contraction's epilogue is part of the contraction's kernel."""

from __future__ import annotations

import numpy as np
import pytest
from on_gpu import assert_close, kernels, lower, module, normal, run_lowered
from tvm import relax

_TARGETS = ["host", "snapdragon-8-gen-3"]
_WEIGHT, _BIAS = normal(1, 16, 24), normal(2, 24)


def _product(x):
    product = relax.op.matmul(x, relax.const(_WEIGHT))
    return relax.op.nn.gelu(relax.op.add(product, relax.const(_BIAS)))


def _numpy_product(x):
    from math import erf

    sums = x.astype(np.float64) @ _WEIGHT + _BIAS
    return sums * 0.5 * (1 + np.vectorize(erf)(sums / np.sqrt(2)))


@pytest.mark.parametrize("target", _TARGETS)
def test_a_column_shard_is_one_kernel(target):
    """[1, M, K] x [K, n] + bias, gelu, stored as [n, 1, M]: how a weight split is joined."""
    x = normal(3, 1, 9, 16)
    mod = module(lambda v: relax.op.permute_dims(_product(v), [2, 0, 1]), (x.shape, "float32"))
    lowered = lower(mod, target)
    assert len(kernels(lowered)) == 1
    (got,) = run_lowered(lowered, [x], target=target)
    # gelu is a polynomial of erf, right to a few float32 roundings of the sums
    assert_close(got, _numpy_product(x).transpose(2, 0, 1), 1e-5)


def test_what_follows_the_transpose_joins_too():
    x, skip = normal(3, 9, 16), normal(4, 24, 9)

    def build(v, s):
        return relax.op.add(relax.op.permute_dims(_product(v)), s)

    lowered = lower(module(build, (x.shape, "float32"), (skip.shape, "float32")))
    assert len(kernels(lowered)) == 1
    (got,) = run_lowered(lowered, [x, skip])
    assert_close(got, _numpy_product(x).T + skip, 1e-5)


def test_the_row_of_a_bias_joins_behind_the_transpose():
    x, bias = normal(3, 9, 16), normal(4, 24, 1)

    def build(v):
        return relax.op.add(relax.op.permute_dims(_product(v)), relax.const(bias))

    lowered = lower(module(build, (x.shape, "float32")))
    (got,) = run_lowered(lowered, [x])
    assert_close(got, _numpy_product(x).T + bias, 1e-5)


@pytest.mark.parametrize("target", _TARGETS)
def test_channels_last_to_channels_first_is_the_convolution_s_store(target):
    weight = relax.const(normal(1, 6, 3, 1, 1))
    mod = module(lambda v: relax.op.nn.conv2d(v, weight), ((1, 3, 5, 7), "float32"))
    ops = [set(kernel.attrs["hetero.ops"]) for kernel in kernels(lower(mod, target)).values()]
    assert len(ops) == 2  # the input's own transpose, and the convolution


def _two_readers(v):
    product = _product(v)
    return relax.op.matmul(product, relax.op.permute_dims(product))


def _not_behind_a_contraction(v):
    return relax.op.permute_dims(relax.op.nn.softmax(v))


def _of_a_depthwise_convolution(v):
    weight = relax.const(normal(1, 4, 1, 3, 3))
    return relax.op.nn.conv2d(relax.op.reshape(v, (1, 4, 6, 6)), weight, groups=4)


@pytest.mark.parametrize(
    ("build", "count"),
    [
        pytest.param(_two_readers, 3, id="the_product_is_needed_unpermuted_too"),
        pytest.param(_not_behind_a_contraction, 2, id="softmax_stores_rows"),
        pytest.param(_of_a_depthwise_convolution, 3, id="a_window_has_another_schedule"),
    ],
)
def test_leaves_alone(build, count):
    x = normal(3, 9, 16)
    assert len(kernels(lower(module(build, (x.shape, "float32"))))) == count


def test_both_readers_get_right_numbers():
    x = normal(3, 9, 16)
    (got,) = run_lowered(lower(module(_two_readers, (x.shape, "float32"))), [x])
    product = _numpy_product(x)
    assert_close(got, product @ product.T, 1e-5)
