"""Items of a group share neighbouring columns, exactly where columns are long."""

from __future__ import annotations

import numpy as np
import pytest
from on_gpu import kernels, lower, module, normal, run
from tvm import relax

_PHONE = "snapdragon-8-gen-3"


def _script(build, shape, target=_PHONE):
    (kernel,) = kernels(lower(module(build, (shape, "float32")), target)).values()
    return kernel.script()


@pytest.mark.parametrize("name", ["max", "min", "mean", "sum"])
@pytest.mark.parametrize("shape", [(2, 300, 40), (1, 65, 16), (3, 129, 1), (1, 1000, 33)], ids=str)
def test_columns_have_the_numbers_of_float64(name, shape):
    x = normal(1, *shape)
    if name in ("max", "min"):
        x[0, :, 0] = -np.inf

    def build(v):
        return getattr(relax.op, name)(v, axis=[1])

    assert '"threadIdx.y"' in _script(build, shape)
    want = getattr(np, name)(x.astype(np.float64), 1)
    np.testing.assert_allclose(run(build, x, target=_PHONE), want, rtol=1e-5, atol=2e-5)


def test_arithmetic_before_and_after():
    x = normal(1, 200, 50)

    def build(v):
        return relax.op.sqrt(relax.op.mean(relax.op.multiply(v, v), axis=[0]))

    want = np.sqrt((x.astype(np.float64) ** 2).mean(0))
    np.testing.assert_allclose(run(build, x, target=_PHONE), want, rtol=1e-5)


def test_short_columns_and_cores_have_nothing_to_share():
    def build(v):
        return relax.op.sum(v, axis=[0])

    assert '"threadIdx.y"' not in _script(build, (64, 40))
    assert '"threadIdx.y"' not in _script(build, (300, 40), "host")
