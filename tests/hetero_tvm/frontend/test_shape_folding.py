"""Folding: what disappears, what stays, and under which names."""

import numpy as np
import pytest

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend.converters import is_importable
from hetero_tvm.frontend.decompose import DECOMPOSITIONS
from hetero_tvm.frontend.input_specs import fix_input_shapes
from hetero_tvm.frontend.shape_folding import fold_model
from relay_passes.constant_file import ConstantFile, lasting_array
from tests.hetero_tvm.frontend.onnx_cases import FLOAT, check, model, node, randn

RNG = np.random.default_rng(5)


def _fold(proto, **shapes):
    return fold_model(proto, fix_input_shapes(proto, shapes), DECOMPOSITIONS, is_importable)


def _ops(folded):
    return [inner.op_type for inner in folded.proto.graph.node]


def _flattening():
    """`x` [batch, length, 4] -> [batch, length * 4] as exporters write it."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "batch", axis=0),
        node("Unsqueeze", "batch first", "b"),
        node("Concat", "b rest", "target", axis=0),
        node("Reshape", "x target", "y"),
    ]
    weights = {"zero": np.array(0), "first": np.array([0]), "rest": np.array([-1])}
    return model(nodes, {"x": ["batch", "length", 4]}, "y", weights)


def test_shape_arithmetic_disappears(tmp_path):
    folded = _fold(_flattening(), x=[2, 3, 4])
    assert _ops(folded) == ["Reshape"]
    assert folded.outputs[0].shape == (2, 12)
    assert folded.constants["target"].tolist() == [2, -1]
    check(_flattening(), tmp_path, tolerance=0, input_shapes={"x": [2, 3, 4]})


def test_nothing_and_repetition_disappear():
    nodes = [
        node("Identity", "x", "a"),
        node("Cast", "a", "b", to=FLOAT),
        node("Dropout", "b", "c"),
        node("Reshape", "c same", "d"),
        node("Relu", "d", "e"),
        node("Relu", "x", "f"),
        node("Add", "e f", "y"),
        node("Exp", "x", "dead"),
    ]
    folded = _fold(model(nodes, {"x": [2, 3]}, "y", {"same": np.array([2, 3])}))
    assert _ops(folded) == ["Relu", "Add"]
    assert list(folded.proto.graph.node[1].input) == ["e", "e"]


def test_backward_slice_over_everything_is_kept():
    weights = {"s": np.array([-1]), "e": np.array([-9]), "a": np.array([1]), "p": np.array([-1])}
    folded = _fold(model([node("Slice", "x s e a p", "y")], {"x": [2, 3]}, "y", weights))
    assert _ops(folded) == ["Slice"]


def test_large_results_of_small_constants_stay_computed():
    nodes = [node("Expand", "one shape", "ones"), node("Add", "x ones", "y")]
    size = 5_000_000
    weights = {"one": np.float32(1), "shape": np.array([size])}
    folded = _fold(model(nodes, {"x": [size]}, "y", weights))
    assert _ops(folded) == ["Expand", "Add"]


def test_outputs_keep_their_names():
    nodes = [
        node("Relu", "x", "r"),
        node("Identity", "r", "y"),
        node("Identity", "r", "z"),
        node("Identity", "x", "same"),
        node("Constant", "", "fixed", value_ints=[1, 2]),
    ]
    folded = _fold(model(nodes, {"x": [2]}, "y z same fixed"))
    assert [spec.name for spec in folded.outputs] == ["y", "z", "same", "fixed"]
    assert _ops(folded) == ["Relu", "Identity", "Identity", "Identity"]


def test_outputs_that_are_inputs_or_constants(tmp_path):
    nodes = [
        node("Identity", "x", "same"),
        node("Constant", "", "fixed", value_ints=[1, 2]),
        node("Relu", "x", "y"),
    ]
    check(model(nodes, {"x": [2]}, "same fixed y y2".replace(" y2", "")), tmp_path, tolerance=0)


def test_shapes_that_do_not_fit_name_the_node():
    proto = model(
        [node("MatMul", "x w", "y", name="mm")], {"x": ["n", "k"]}, "y", {"w": randn(3, 4)}
    )
    with pytest.raises(BadInput, match=r"node 'mm' \(MatMul\) does not fit its inputs \[\[1, 5\]"):
        _fold(proto, x=[1, 5])


def test_local_functions_are_inlined(tmp_path):
    from onnx import helper

    proto = model([node("Twice", "x", "y", domain="local")], {"x": [2]}, "y")
    proto.opset_import.add(domain="local", version=1)
    body = [node("Add", "a a", "b")]
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], body, opsets))
    check(proto, tmp_path)


@pytest.mark.parametrize("made", ["rule", "arithmetic", "nothing"])
def test_weights_are_in_the_builds_file(tmp_path, made):
    """By a rule, from codes of four bits; by arithmetic; the model's own."""
    weights = {"w": randn(512, 512), "two": np.array(2, np.float32)}
    nodes = [node("Mul", "w two", "ww"), node("MatMul", "x ww", "y")]
    if made == "nothing":
        nodes = [node("MatMul", "x w", "y")]
    elif made == "rule":
        weights = {"w": RNG.integers(0, 256, (512, 16, 16)).astype(np.uint8), "s": randn(512 * 16)}
        sizes = {"N": 512, "K": 512, "bits": 4, "block_size": 32}
        nodes = [node("MatMulNBits", "x w s", "y", domain="com.microsoft", **sizes)]
    proto = model(nodes, {"x": [2, 512]}, "y", weights)
    proto.opset_import.add(domain="com.microsoft", version=1)
    with ConstantFile(tmp_path):
        folded = _fold(proto)
        (product,) = folded.proto.graph.node
        array = folded.constants[product.input[1]]
        assert array.shape == (512, 512)
        assert lasting_array(array) is array
