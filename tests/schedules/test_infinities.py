"""Extremes of rows without a finite number."""

from __future__ import annotations

import numpy as np
import pytest
from on_gpu import run
from tvm import relax


@pytest.mark.parametrize("axis", [0, 1], ids=["columns", "rows"])
@pytest.mark.parametrize("shape", [(3, 5), (64, 64)], ids=["odd", "vectors"])
@pytest.mark.parametrize(("name", "fill"), [("max", -np.inf), ("min", np.inf)])
def test_nothing_finite(name, fill, shape, axis):
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    x[0], x[:, 0] = fill, fill
    got = run(lambda a: getattr(relax.op, name)(a, axis), x)
    np.testing.assert_array_equal(got, getattr(np, name)(x, axis))
