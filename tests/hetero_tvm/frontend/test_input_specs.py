"""The `--input` flag: what it fixes, and the text of every refusal."""

import pytest
from onnx import TensorProto, helper

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend.input_specs import InputSpec, fix_input_shapes, parse_input_flag


def _model(**inputs):
    values = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()]
    return helper.make_model(helper.make_graph([], "g", values, []))


ENCODER = {
    "input_ids": (TensorProto.INT64, ["batch", "length"]),
    "attention_mask": (TensorProto.INT64, ["batch", "length"]),
}


@pytest.mark.parametrize(
    ("text", "name", "shape", "dtype"),
    [
        ("x=1x3x320x320", "x", (1, 3, 320, 320), None),
        ("input_ids=1x128:int64", "input_ids", (1, 128), "int64"),
        ("sr=scalar:int64", "sr", (), "int64"),
        ("sr=", "sr", (), None),
        ("a=b:0=7:float32", "a=b:0", (7,), "float32"),
    ],
)
def test_flag(text, name, shape, dtype):
    assert parse_input_flag(text) == InputSpec(name=name, shape=shape, dtype=dtype)


@pytest.mark.parametrize("text", ["x", "=1x2", "x=1,2", "x=1x", "x=-1x2", "x=1xN:int64"])
def test_malformed_flag_shows_how_to_write_it(text):
    with pytest.raises(BadInput, match=r"write (NAME=DIMS|the dimensions)"):
        parse_input_flag(text)


def test_shared_names_share_values():
    specs = fix_input_shapes(_model(**ENCODER), {"input_ids": [1, 16]})
    assert [str(s) for s in specs] == ["input_ids=1x16:int64", "attention_mask=1x16:int64"]


def test_open_dimensions_are_all_named_with_flags():
    with pytest.raises(BadInput) as caught:
        fix_input_shapes(_model(**ENCODER), {})
    assert str(caught.value) == (
        "input 'input_ids' leaves dimension 0 ('batch'), dimension 1 ('length') open; "
        "input 'attention_mask' leaves dimension 0 ('batch'), dimension 1 ('length') open; "
        "for example: --input input_ids=1x128:int64"
    )


def test_example_flags_agree_with_each_other():
    model = _model(
        x=(TensorProto.FLOAT, ["batch", "length"]), state=(TensorProto.FLOAT, [2, "batch", "?"])
    )
    with pytest.raises(BadInput, match=r"--input x=1x128:float32 --input state=2x1x128:float32$"):
        fix_input_shapes(model, {})


@pytest.mark.parametrize("dim", [-1, 0, "?", None])
def test_literal_minus_one_and_its_like_are_free(dim):
    model = _model(x=(TensorProto.FLOAT, [dim, 3, 224, 224]))
    with pytest.raises(BadInput, match="leaves dimension 0"):
        fix_input_shapes(model, {})
    assert fix_input_shapes(model, {"x": [2, 3, 224, 224]})[0].shape == (2, 3, 224, 224)


def test_question_marks_are_not_one_name():
    model = _model(x=(TensorProto.FLOAT, ["?", "?"]), y=(TensorProto.FLOAT, ["?"]))
    with pytest.raises(BadInput, match="input 'y' leaves dimension 0"):
        fix_input_shapes(model, {"x": [2, 3]})


def test_unknown_rank_is_open():
    model = _model(x=(TensorProto.FLOAT, None))
    with pytest.raises(BadInput, match="input 'x' has no fixed rank"):
        fix_input_shapes(model, {})
    assert fix_input_shapes(model, {"x": [2, 3]})[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        pytest.param(
            {"input_id": [1, 2]},
            r"no input 'input_id' \(did you mean 'input_ids'\?\); the model's inputs are: "
            r"input_ids \[batch, length\] int64, attention_mask \[batch, length\] int64",
            id="name",
        ),
        pytest.param(
            {"input_ids": [1, 2, 3], "attention_mask": [1, 2]},
            r"\[1, 2, 3\] does not fit the model's input_ids \[batch, length\] int64 \(rank 2\)",
            id="rank",
        ),
        pytest.param(
            {"input_ids": InputSpec(name="input_ids", shape=(1, 2), dtype="int32")},
            "input 'input_ids' is int64 in the model, not int32",
            id="dtype",
        ),
        pytest.param({"input_ids": [1, 0]}, r"of shape \[1, 0\] has 0 elements", id="empty"),
        pytest.param(
            {"input_ids": [65536, 65536]}, "has 4294967296 elements", id="beyond_32_bit_indices"
        ),
    ],
)
def test_refusals(given, text):
    with pytest.raises(BadInput, match=text):
        fix_input_shapes(_model(**ENCODER), given)


def test_fixed_dimension_cannot_be_changed():
    model = _model(x=(TensorProto.FLOAT, ["n", 3]))
    with pytest.raises(BadInput, match=r"\[1, 4\] does not fit the model's x \[n, 3\] float32"):
        fix_input_shapes(model, {"x": [1, 4]})
