"""Tensors without elements: gone by folding, or refused in one line."""

import onnx
import pytest

from hetero_tvm.errors import UnsupportedModel
from hetero_tvm.frontend import import_model

HEAD = '<ir_version: 9, opset_import: ["" : 18]> g '
NOTHING = "int64[1] s = {0}, int64[1] e = {0}, int64[1] a = {1}"


def imported(tmp_path, text):
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(HEAD + text), path)
    return import_model(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "(float[1,1,1] x) => (float[1,1,0] y) <float[1,0] w = {}> { y = MatMul (x, w) }",
            r"output 'y' of shape \[1, 1, 0\] has 0 elements",
        ),
        (
            "(float[2,3] x) => (float[2,0] w, float[2,3] y) <float[2,0] v = {}>"
            "{ w = Identity (v) y = Relu (x) }",
            r"output 'w' of shape \[2, 0\] has 0 elements",
        ),
        (
            f"(float[2,3] x) => (float[2,2] y) <{NOTHING}, float[0,2] w = {{}}>"
            "{ v = Slice (x, s, e, a) y = MatMul (v, w) }",
            r"tensors of 0 elements.*node 'y'",
        ),
    ],
)
def test_what_is_left_is_refused(tmp_path, text, words):
    with pytest.raises(UnsupportedModel, match=words):
        imported(tmp_path, text)


def test_what_is_dropped_is_not(tmp_path):
    found = imported(
        tmp_path,
        f"(float[2,3] x) => (float[2,3] y) <{NOTHING}>"
        "{ v = Slice (x, s, e, a) w = Relu (v) y = Concat<axis = 1> (w, x) }",
    )
    assert [spec.shape for spec in found.outputs] == [(2, 3)]
