"""One node and what is known about it."""

import numpy as np
from onnx import helper

from hetero_tvm.frontend.node_view import NodeView, ValueType, qualified_op
from tests.hetero_tvm.frontend.onnx_cases import node


def _view(proto, **constants):
    types = {"x": ValueType(dtype="float32", shape=(2, 3)), "y": ValueType(dtype="bool", shape=())}
    return NodeView(proto=proto, opset=17, types=types, constants=constants)


def test_inputs_and_outputs():
    view = _view(node("Clip", "x _ hi", "y", name="cut"), hi=np.float32(6))
    assert [view.has(i) for i in range(4)] == [True, False, True, False]
    assert (view.input(1), view.const(1), view.const(2)) == ("", None, np.float32(6))
    assert (view.shape(0), view.dtype(0), view.type(0).rank) == ((2, 3), "float32", 2)
    assert view.out().dtype == "bool"
    assert (view.has_output(0), view.has_output(1)) == (True, False)
    assert view.label == "'cut' (Clip)"


def test_attributes():
    proto = node("Pad", "x", "y", mode="edge", pads=[1, 2], value=0.5)
    view = _view(proto)
    assert (view.attr("mode"), view.attr("pads"), view.attr("value")) == ("edge", [1, 2], 0.5)
    assert view.attr("none", 7) == 7


def test_lists_in_attributes_or_inputs():
    assert _view(node("ReduceSum", "x", "y", axes=[1])).ints("axes", 1) == [1]
    assert _view(node("ReduceSum", "x a", "y"), a=np.array([0, 1])).ints("axes", 1) == [0, 1]
    assert _view(node("ReduceSum", "x", "y")).ints("axes", 1) is None
    assert _view(node("ReduceSum", "x y", "z")).ints("axes", 1) is None


def test_names_of_operators():
    assert qualified_op(node("Conv", "x", "y")) == "Conv"
    assert qualified_op(helper.make_node("Gelu", ["x"], ["y"], domain="a.b")) == "a.b.Gelu"
