"""Static types of one node's outputs, and the three ways to have none."""

import numpy as np
import pytest
from onnx import helper

from hetero_tvm.errors import ModelTooLarge, OpenShapeError, ShapeMismatchError
from hetero_tvm.frontend.node_types import Schemas
from hetero_tvm.frontend.node_view import ValueType
from tests.hetero_tvm.frontend.onnx_cases import node

TYPES = {
    "x": ValueType(dtype="float32", shape=(2, 3)),
    "s": ValueType(dtype="int64", shape=(2,)),
}
_ONE = ValueType(dtype="float32", shape=(1, 1))


@pytest.fixture
def schemas():
    return Schemas([helper.make_opsetid("", 18)])


def test_known_shapes(schemas):
    proto = node("Reshape", "x s", "y", name="fold")
    found = schemas.infer(proto, TYPES, {"s": np.array([3, -1])})
    assert found == {"y": ValueType(dtype="float32", shape=(3, 2))}


def test_computed_shape_is_open(schemas):
    with pytest.raises(OpenShapeError, match="is computed from an input's values"):
        schemas.infer(node("Reshape", "x s", "y"), TYPES, {})


def test_data_dependent_shape_is_open(schemas):
    with pytest.raises(OpenShapeError, match="depends on the data"):
        schemas.infer(node("NonZero", "x", "y"), TYPES, {})


def test_unknown_operator_is_open(schemas):
    with pytest.raises(OpenShapeError, match="its shape is not known"):
        schemas.infer(node("Foo", "x", "y"), TYPES, {})


@pytest.mark.parametrize(
    ("proto", "constants"),
    [
        pytest.param(node("MatMul", "x x", "y", name="bad"), {}, id="onnx_sees_it"),
        pytest.param(
            node("Reshape", "x s", "y", name="bad"), {"s": np.array([2, 4])}, id="onnx_believes_it"
        ),
    ],
)
def test_shapes_that_do_not_fit(schemas, proto, constants):
    with pytest.raises(ShapeMismatchError, match=r"node 'bad' \(\w+\) does not fit its inputs"):
        schemas.infer(proto, TYPES, constants)


def test_a_result_that_no_device_holds(schemas):
    sizes = {"s": np.array([2**40, 3])}
    with pytest.raises(
        ModelTooLarge, match=r"node 'big' \(Expand\) makes float32 \[1099511627776, 3"
    ):
        schemas.infer(node("Expand", "v s", "y", name="big"), {**TYPES, "v": _ONE}, sizes)


def test_definitions():
    schemas = Schemas([helper.make_opsetid("", 24)])
    assert schemas.definition(node("Swish", "x", "y"), TYPES) is not None
    assert schemas.definition(node("MatMul", "x x", "y"), TYPES) is None
    body = schemas.definition(
        node("Attention", "q k v", "y"),
        {name: ValueType(dtype="float32", shape=(1, 2, 4, 8)) for name in "qkv"},
    )
    assert any(inner.op_type == "Softmax" for inner in body.node)
