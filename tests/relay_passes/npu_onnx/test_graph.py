"""The graph under construction, and the table of emitters."""

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from relay_passes.npu_onnx.graph import EMITTERS, OnnxGraph, element_type, emits, int_list


def test_equal_constants_are_one():
    graph = OnnxGraph(half_inside=False)
    one = graph.constant(np.ones((2, 3), "float32"))
    assert graph.constant(np.ones((2, 3), "float32")) == one
    assert graph.constant(np.ones((3, 2), "float32")) != one
    assert graph.constant(np.ones((2, 3), "int32")) != one
    assert len(graph.initializers) == 3


@pytest.mark.parametrize(
    ("half_inside", "kept"), [(False, -3.4e38), (True, -65504.0)], ids=["float32", "float16"]
)
def test_masks_fit_the_npu(half_inside, kept):
    graph = OnnxGraph(half_inside=half_inside)
    graph.scalar(-3.4e38, "float32")
    assert numpy_helper.to_array(graph.initializers[0]) == np.float32(kept)


def test_names_follow_the_order():
    graph = OnnxGraph(half_inside=False)
    first = graph.node("Relu", "in0")
    fields = graph.nodes_out("Split", [first], 2, axis=0)
    assert (first, fields) == ("t0", ("t1_0", "t1_1"))


def test_an_output_is_renamed_not_copied():
    graph = OnnxGraph(half_inside=False)
    graph.name_output(graph.node("Relu", "in0"), "out0")
    assert [(n.op_type, list(n.output)) for n in graph.nodes] == [("Relu", ["out0"])]


def test_an_input_that_is_an_output_is_copied():
    graph = OnnxGraph(half_inside=False)
    graph.name_output("in0", "out0")
    assert [n.op_type for n in graph.nodes] == ["Identity"]


def test_an_operator_has_one_emitter():
    with pytest.raises(AssertionError, match="second emitter"):
        emits("relax.add")(EMITTERS["relax.add"])


def test_plain_values():
    assert element_type("float16") == TensorProto.FLOAT16
    assert int_list([1, np.int64(2)]) == [1, 2]
