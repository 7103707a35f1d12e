"""Numbers of the emitters in `elementwise`, row by row, against TVM's own kernels."""

import math

import npu_numbers
import numpy as np
import pytest

from relay_passes.npu_onnx import elementwise, region_to_onnx


@pytest.mark.parametrize("case", npu_numbers.cases_of(elementwise), ids=lambda case: case.name)
def test_same_numbers_as_tvm(case):
    npu_numbers.check(case)


def test_gelu_polynomial_is_as_close_as_it_says():
    x = np.linspace(-12, 12, 20001)
    constant, slope, curve = elementwise._GELU
    bounded = np.clip(x, -elementwise._GELU_EDGE, elementwise._GELU_EDGE)
    exponent = bounded * (constant + slope * bounded**2 + curve * bounded**4)
    exact = x * 0.5 * (1 + np.vectorize(math.erf)(x / 2**0.5))
    assert np.abs(x / (1 + np.exp(exponent)) - exact).max() < 2.7e-5


@pytest.mark.parametrize("op", ["Gelu", "Sigmoid", "Erf"])
def test_coarse_operators_of_htp_are_not_used_on_it(op):
    for case in npu_numbers.cases_of(elementwise):
        model = region_to_onnx(case.function(), half_inside=True)
        assert op not in {node.op_type for node in model.graph.node}, case.name
