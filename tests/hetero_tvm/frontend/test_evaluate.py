"""Single nodes in ONNX Runtime."""

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

from hetero_tvm.frontend.evaluate import evaluate_node
from tests.hetero_tvm.frontend.onnx_cases import node

OPSETS = [helper.make_opsetid("", 21)]


def test_values_and_absent_outputs():
    x = np.array([3.0, 1.0, 2.0], "float32")
    values = evaluate_node(node("TopK", "x k", "_ i"), {"x": x, "k": np.array([2])}, OPSETS)
    assert values[1].tolist() == [0, 2]


def test_four_bit_inputs():
    w = np.array([[-8, 7]]).astype(ml_dtypes.int4)
    (value,) = evaluate_node(
        node("DequantizeLinear", "w s", "y"), {"w": w, "s": np.array(0.5, "float32")}, OPSETS
    )
    assert value.tolist() == [[-4.0, 3.5]]


def test_unknown_operator_raises():
    with pytest.raises(Exception, match="Foo"):
        evaluate_node(node("Foo", "", "y"), {}, OPSETS)
