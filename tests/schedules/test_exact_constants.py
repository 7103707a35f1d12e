"""Constants reach the device with all of their bits."""

from __future__ import annotations

import numpy as np
import pytest
from on_gpu import run
from tvm import relax

_VALUES = [1 / 3, 2.0**-16, -(2.0**88), float(np.nextafter(np.float32(1), np.float32(2)))]


@pytest.mark.parametrize("value", _VALUES)
@pytest.mark.parametrize("columns", [5, 64], ids=["single_values", "vectors"])
def test_products_are_those_of_numpy(value, columns):
    x = np.random.default_rng().standard_normal((3, columns)).astype(np.float32)
    constant = np.float32(value)
    got = run(lambda a: relax.op.multiply(a, relax.const(constant)), x)
    np.testing.assert_array_equal(got, x * constant)


def test_what_is_no_number_stays():
    x = np.array([[1.0, -1.0]], np.float32)
    got = run(lambda a: relax.op.multiply(a, relax.const(np.float32(np.inf))), x)
    np.testing.assert_array_equal(got, x * np.float32(np.inf))
