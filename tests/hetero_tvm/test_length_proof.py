"""What is proven of a model at lengths that are not built, against ONNX Runtime."""

import numpy as np
import onnx
import pytest
import tiny_models as tiny
from onnx import TensorProto, helper

from hetero_tvm import length_proof
from hetero_tvm.errors import BadInput
from hetero_tvm.frontend import import_model


def border(path, shapes):
    """`shapes`: input -> shape with "L"."""

    def at(size):
        return {n: [size if d == "L" else d for d in shape] for n, shape in shapes.items()}

    return length_proof.border(path, at(8), at(9))


def rules(path, shapes, lengths=(8, 32), fill=None):
    found = border(path, shapes)
    sizes = {n: [max(lengths) if d == "L" else d for d in s] for n, s in shapes.items()}
    model = import_model(path, input_shapes=sizes, check=False)
    values = length_proof.checked_fill(fill or {}, found)
    return length_proof.prove(path, model.ranges, found.axes, lengths, values)


def graph(path, nodes, outputs, inputs=(("x", [1, "L"]),), constants=()):
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        [helper.make_node(op, i, o, **attributes) for op, i, o, attributes in nodes],
        "made",
        [value(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [value(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(made, opset_imports=opset, ir_version=9), path)
    return path


def test_rows_may_be_filled_up_and_cut(tmp_path):
    found = rules(tiny.mlp(tmp_path / "m.onnx", free_rows=True), {"x": ("L", 32)})
    assert (found.padding, found.chunking) == (True, True)
    assert (found.input_axes, found.output_axes) == ({"x": (0,)}, {"y": (0,)})
    assert found.padding_words.startswith("holds: outputs differ by at most")


def test_masked_attention_may_be_filled_up_but_not_cut(tmp_path):
    path = tiny.attention(tmp_path / "m.onnx")
    found = rules(path, {"ids": (1, "L"), "mask": (1, "L")})
    assert (found.padding, found.chunking) == (True, False)
    assert found.output_axes == {"y": (1,)}
    assert found.chunking_words == "output mean has no single axis of the length to cut along"


def test_attention_without_a_mask_may_not_be_filled_up(tmp_path):
    found = rules(tiny.attention(tmp_path / "m.onnx", mask=False), {"ids": (1, "L")})
    assert (found.padding, found.chunking) == (False, False)
    assert found.padding_words.startswith("filling up ")
    assert "changes output y by " in found.padding_words
    assert found.chunking_words == "needs padding for the last piece"


def test_what_looks_back_may_be_filled_up_but_not_cut(tmp_path):
    nodes = [("CumSum", ["x", "axis"], ["y"], {})]
    path = graph(tmp_path / "m.onnx", nodes, [("y", [1, "L"])], constants=[("axis", 1)])
    found = rules(path, {"x": (1, "L")})
    assert (found.padding, found.chunking) == (True, False)
    assert found.chunking_words.startswith("cutting ")


@pytest.mark.parametrize(("op", "neutral"), [("ReduceMax", -1e9), ("ReduceMin", 1e9)])
def test_a_value_may_be_neutral_where_zero_is_not(tmp_path, op, neutral):
    nodes = [(op, ["x", "axis"], ["y"], {"keepdims": 0})]
    path = graph(tmp_path / "m.onnx", nodes, [("y", [1])], constants=[("axis", np.array([1]))])
    shapes = {"x": (1, "L")}
    assert not rules(path, shapes, lengths=(32, 256)).padding
    assert rules(path, shapes, fill={"x": neutral}).padding
    assert not rules(path, shapes, fill={"x": -neutral}).padding


def test_an_output_of_another_length_is_refused(tmp_path):
    nodes = [("Concat", ["x", "x"], ["y"], {"axis": 1})]
    path = graph(tmp_path / "m.onnx", nodes, [("y", [1, "M"])])
    found = rules(path, {"x": (1, "L")})
    assert not found.padding
    assert found.padding_words.endswith("not the length itself")


def test_a_length_that_the_model_does_not_take_is_no_padding(tmp_path):
    """Its shapes are good for multiples of 8 only."""
    nodes = [
        ("Reshape", ["x", "rows"], ["r"], {}),
        ("Relu", ["r"], ["s"], {}),
        ("Reshape", ["s", "flat"], ["y"], {}),
    ]
    constants = [("rows", np.array([-1, 8])), ("flat", np.array([1, -1]))]
    path = graph(tmp_path / "m.onnx", nodes, [("y", [1, "L"])], constants=constants)
    found = rules(path, {"x": (1, "L")})
    assert not found.padding
    assert found.padding_words.startswith("ONNX Runtime cannot run the model at length ")


def test_nothing_lies_between(tmp_path):
    found = rules(tiny.mlp(tmp_path / "m.onnx", free_rows=True), {"x": ("L", 32)}, (1, 2))
    assert not found.padding
    assert found.padding_words == "no length lies below 2 that is not built"


def test_many_lengths_are_tried_at_a_few(tmp_path):
    path = tiny.mlp(tmp_path / "m.onnx", free_rows=True)
    found = rules(path, {"x": ("L", 32)}, tuple(range(4, 80, 4)))
    assert found.padding
    assert found.padding_words.count(",") == 6  # eight lengths


def test_inputs_that_share_the_dimension_carry_the_length_too(tmp_path):
    path = tiny.attention(tmp_path / "m.onnx")
    assert border(path, {"ids": (1, "L")}).axes == {"ids": (1,), "mask": (1,)}


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        ({"other": 1.0}, r"--pad other: the length shows in ids, mask, not in other"),
        ({"ids": 0.5}, r"--pad ids=0\.5: the input is int64"),
        ({"mask": 1e30}, r"--pad mask=1e\+30: the input is int64"),
    ],
)
def test_bad_values(tmp_path, fill, message):
    found = border(tiny.attention(tmp_path / "m.onnx"), {"ids": (1, "L")})
    with pytest.raises(BadInput, match=message):
        length_proof.checked_fill(fill, found)
