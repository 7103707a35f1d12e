"""Where decompositions write."""

import pytest

from hetero_tvm.frontend.emitter import Emitter
from hetero_tvm.frontend.inlining import FreshNames
from hetero_tvm.frontend.node_view import NodeView
from tests.hetero_tvm.frontend.onnx_cases import node


def _emitter(opset):
    proto = node("Foo", "x", "y _", name="foo")
    view = NodeView(proto=proto, opset=opset, types={}, constants={})
    return Emitter(view, FreshNames({"x", "y"}).take)


@pytest.mark.parametrize(("opset", "inputs"), [(13, 1), (18, 2)])
def test_reductions_follow_the_opset(opset, inputs):
    out = _emitter(opset)
    out.reduce("ReduceMean", "x", [1])
    assert len(out.nodes[0].input) == inputs
    assert len(out.constants) == inputs - 1


def test_sum_took_its_axes_as_input_earlier():
    out = _emitter(13)
    out.reduce("ReduceSum", "x", [1])
    assert len(out.nodes[0].input) == 2


@pytest.mark.parametrize(("opset", "inputs"), [(10, 1), (11, 3)])
def test_clip_follows_the_opset(opset, inputs):
    out = _emitter(opset)
    out.clip("x", 0.0, 6.0, "float32")
    assert len(out.nodes[0].input) == inputs


def test_outputs_take_the_replaced_nodes_names():
    out = _emitter(17)
    out.output(out.op("Relu", "x"), 0)
    out.output("unread", 1)
    assert [list(n.output) for n in out.nodes] == [["foo/Relu"], ["y"]]
