"""Functions that TVM has no OpenCL name for."""

from __future__ import annotations

import numpy as np
import pytest
from on_gpu import run
from tvm import relax

# Within the domains of all of them but acosh's, which is shifted. Lengths with and without vectors.
_SHAPES = [(3, 5), (2, 64)]


@pytest.mark.parametrize("shape", _SHAPES, ids=["odd", "vectors"])
@pytest.mark.parametrize(
    "name", ["acos", "acosh", "asin", "asinh", "atan", "atanh", "cosh", "sinh", "tan"]
)
def test_values(name, shape):
    x = np.random.default_rng(len(name)).uniform(-0.9, 0.9, shape).astype(np.float32)
    x = x + 2 if name == "acosh" else x
    numpy_name = name.replace("a", "arc", 1) if name[0] == "a" else name
    want = getattr(np, numpy_name)(x.astype(np.float64))
    # OpenCL 3.0, table 7.4: 5 ulp at most for these.
    np.testing.assert_allclose(run(getattr(relax.op, name), x), want, rtol=6e-7, atol=1e-7)
