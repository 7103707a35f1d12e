"""Extremes of rows without a finite number."""

from __future__ import annotations

import numpy as np
import pytest
from on_gpu import run
from tvm import relax


@pytest.mark.parametrize("target", ["host", "snapdragon-8-gen-3"])
@pytest.mark.parametrize("axis", [0, 1], ids=["columns", "rows"])
@pytest.mark.parametrize("shape", [(3, 5), (64, 64)], ids=["odd", "vectors"])
@pytest.mark.parametrize(("name", "fill"), [("max", -np.inf), ("min", np.inf)])
def test_nothing_finite(name, fill, shape, axis, target):
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    x[0], x[:, 0] = fill, fill
    got = run(lambda a: getattr(relax.op, name)(a, axis), x, target=target)
    np.testing.assert_array_equal(got, getattr(np, name)(x, axis))


def test_a_finite_extreme_of_the_model_stays():
    lowest = np.finfo(np.float32).min
    x = np.array([[1.0, -1.0], [0.0, -2.0]], np.float32)

    def build(a):
        return relax.op.where(relax.op.greater(a, relax.const(0.0)), a, relax.const(lowest))

    for target in ("host", "snapdragon-8-gen-3"):
        np.testing.assert_array_equal(run(build, x, target=target), np.where(x > 0, x, lowest))
