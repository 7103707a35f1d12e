"""Nodes are held against their operators' schemas before anything is asked of them."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from hetero_tvm.frontend.check_nodes import problem


def made(op, inputs, outputs, attributes=(), opset=18):
    node = helper.make_node(op, inputs, outputs)
    node.attribute.extend(attributes)
    return problem(node, onnx.defs.get_schema(op, opset, ""))


def test_what_is_right():
    assert made("Concat", ["a", "b", "c"], ["y"], [helper.make_attribute("axis", 1)]) is None
    assert made("Clip", ["x", "", "high"], ["y"]) is None
    assert made("LSTM", ["x", "w", "r"], ["", "h"]) is None
    # ONNX Runtime gives some operators attributes of its own.
    assert made("Relu", ["x"], ["y"], [helper.make_attribute("other", 1)]) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("Add", ["a"], ["y"]), "has 1 inputs, 2 to 2 are possible"),
        (("Relu", ["a"], ["y", "z"]), "has 2 outputs, 1 to 1 are possible"),
        (("Relu", ["a"], [""]), "has no Y"),
        (("Add", ["a", ""], ["y"]), "has no B"),
        (("Min", ["a", "", "b"], ["y"]), "has no data_0 1"),
        (("Loop", ["", "", "", "a"], ["y"]), "has no v_initial 0"),
        (("Concat", ["a"], ["y"]), "lacks the attribute axis"),
        (
            ("Concat", ["a"], ["y"], [helper.make_attribute("axis", [1])]),
            "has the attribute axis of type INTS, not INT",
        ),
        (
            ("Softmax", ["a"], ["y"], [helper.make_attribute("axis", 1)] * 2),
            "has the attribute axis twice",
        ),
        (
            ("Softmax", ["a"], ["y"], [onnx.AttributeProto(name="axis", i=1)]),
            "has the attribute axis of type UNDEFINED, not INT",
        ),
    ],
)
def test_what_is_wrong(words, said):
    assert made(*words) == said
