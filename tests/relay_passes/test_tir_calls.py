# ruff: noqa: N805 -- TVMScript names
"""Calls of kernels, told from others, and given kernels of another fusion pattern."""

import pytest
from tvm import relax
from tvm.ir import GlobalVar
from tvm.relax.expr_functor import mutator
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from relay_passes.tir_calls import (
    ELEMENTWISE,
    INJECTIVE,
    PATTERN,
    PatternMarker,
    callee,
    elements,
    is_call_tir,
    kernel_name,
)


@I.ir_module(s_tir=True)
class Module:
    @T.prim_func(s_tir=True)
    def kernel(X: T.Buffer((T.int64(2), T.int64(3)), "float32"),
               Y: T.Buffer((T.int64(2), T.int64(3)), "float32")):  # fmt: skip
        T.func_attr({"op_pattern": 0})
        for i, j in T.grid(T.int64(2), T.int64(3)):
            with T.sblock("copy"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = X[vi, vj]

    @R.function
    def main(x: R.Tensor((2, 3), "float32")) -> R.Tensor((2, 3), "float32"):
        cls = Module
        with R.dataflow():
            a = R.call_tir(cls.kernel, (x,), out_ty=R.Tensor((2, 3), "float32"))
            b = R.call_tir(cls.kernel, (a,), out_ty=R.Tensor((2, 3), "float32"))
            c = R.call_dps_packed("region", (b,), out_ty=R.Tensor((2, 3), "float32"))
            d = R.add(c, c)
            R.output(d)
        return d


def values(mod):
    return {b.var.name: b.value for block in mod["main"].body.blocks for b in block.bindings}


@pytest.mark.parametrize(("name", "is_one"), [("a", True), ("c", False), ("d", False)])
def test_calls_of_kernels(name, is_one):
    value = values(Module)[name]
    assert is_call_tir(value) == is_one
    assert (callee(Module, value) is not None) == is_one


def test_a_variable_is_no_call():
    assert not is_call_tir(Module["main"].params[0])


def test_elements_of_known_shapes_only():
    assert elements(values(Module)["a"]) == 6
    assert elements(relax.Var("s", relax.TensorType(dtype="float32", ndim=2))) == 0
    assert elements(relax.Var("t", relax.TupleType([]))) == 0


@mutator
class MarkB(PatternMarker):
    def visit_var_binding_(self, binding):
        if binding.var.name == "b":
            binding = self.marked(binding, INJECTIVE)
        super().visit_var_binding_(binding)


def test_one_call_gets_a_kernel_of_its_own():
    """The other one, and the module that came in, keep theirs."""
    found = MarkB(Module).run()
    patterns = {n: callee(found, v).attrs[PATTERN] for n, v in values(found).items() if n in "ab"}
    assert patterns == {"a": ELEMENTWISE, "b": INJECTIVE}
    assert callee(Module, values(Module)["b"]).attrs[PATTERN] == ELEMENTWISE


def test_kernels_that_are_called():
    named = {name: kernel_name(value) for name, value in values(Module).items()}
    assert named["a"] is not None and named["a"] == named["b"]
    assert kernel_name(relax.op.call_pure_packed("other", relax.const(1), ty_args=[])) is None
    x = relax.Var("x", relax.TensorType((4,), "float32"))
    in_place = relax.op.call_tir_inplace(GlobalVar("write"), [x], [0], x.ty)
    assert kernel_name(in_place) == "write"
