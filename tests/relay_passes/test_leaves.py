from tvm import relax
from tvm.ir import GlobalVar

from relay_passes.leaves import leaves, variables

A, B = (relax.Var(name, relax.TensorType((2,), "float32")) for name in "ab")
PAIR = relax.Var("pair", relax.TupleType([A.ty, B.ty]))
ONE = relax.const([1.0, 1.0], "float32")


def test_in_order_and_as_often_as_they_are_read():
    expr = relax.op.concat([B, relax.op.add(A, ONE), relax.TupleGetItem(PAIR, 1), B])
    assert list(leaves(expr)) == [B, A, ONE, PAIR, B]
    assert list(variables(expr)) == [B, A, PAIR, B]


def test_of_itself():
    assert list(leaves(A)) == [A]
    assert list(leaves(ONE)) == [ONE]
    assert list(variables(ONE)) == []


def test_functions_and_shapes_are_not_read():
    kernel = relax.Call(relax.ExternFunc("f"), [GlobalVar("k"), relax.ShapeExpr([2]), A])
    assert list(leaves(kernel)) == [A]
