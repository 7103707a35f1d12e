"""The error function and GELU, against float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from on_gpu import kernels, lower, module, run
from tvm import relax

_X = np.linspace(-7, 7, 4001).astype("float32")
_ERF = np.array([math.erf(float(x)) for x in _X])


def test_erf_is_right_to_float32():
    # Largest error of the polynomial, see the module.
    np.testing.assert_allclose(run(relax.op.erf, _X), _ERF, atol=5e-7)


def test_gelu_is_right_to_float32():
    wide = _X.astype(np.float64)
    want = wide * (1 + np.array([math.erf(x / math.sqrt(2)) for x in wide])) / 2
    np.testing.assert_allclose(run(relax.op.nn.gelu, _X), want, atol=2e-6)


@pytest.mark.parametrize("function", [relax.op.erf, relax.op.nn.gelu])
def test_no_call_per_element_is_left(function):
    (kernel,) = kernels(lower(module(function, ((64,), "float32")))).values()
    assert "T.erf" not in kernel.script()
    assert "T.vectorized" in kernel.script()
