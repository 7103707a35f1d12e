"""The model that folding leaves."""

import numpy as np
import onnx

from hetero_tvm.frontend.converters import is_importable
from hetero_tvm.frontend.input_specs import fix_input_shapes
from hetero_tvm.frontend.shape_folding import fold_model
from tests.hetero_tvm.frontend.onnx_cases import INT64, model, node, randn


def _fold(proto):
    return fold_model(proto, fix_input_shapes(proto, {}), {}, is_importable)


def test_model_is_valid_and_static():
    nodes = [node("MatMul", "x w", "h"), node("Identity", "h", "i"), node("Relu", "i", "y")]
    folded = _fold(model(nodes, {"x": [2, 3]}, "y", {"w": randn(3, 4), "unread": randn(9)}))
    onnx.checker.check_model(folded.proto, full_check=True)
    assert list(folded.constants) == ["w"]
    assert [value.name for value in folded.proto.graph.value_info] == ["h"]
    assert folded.alias["i"] == "h"
    assert folded.origin == {"h": "h", "y": "y"}


def test_one_value_under_two_output_names():
    nodes = [node("Relu", "x", "r"), node("Identity", "r", "y"), node("Identity", "r", "z")]
    folded = _fold(model(nodes, {"x": [2]}, "y z"))
    onnx.checker.check_model(folded.proto, full_check=True)
    assert [list(inner.output) for inner in folded.proto.graph.node] == [["y"], ["z"]]
    assert folded.alias["z"] == "y"


def test_dropped_nodes_are_remembered():
    nodes = [node("Equal", "n one", "is"), node("Relu", "x", "y")]
    proto = model(nodes, {"x": [2], "n": (INT64, [])}, "y", {"one": np.array(1)})
    folded = _fold(proto)
    assert [inner.op_type for inner in folded.dropped] == ["Equal"]
    assert folded.dropped_constants["one"] == 1
