"""Only a parameter that has memory of its own in every call carries the promise."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, te

from relay_passes.align_arguments import ALIGNMENT, CONSTANT, AlignArguments
from relay_passes.split_tensor import JOIN, SLICE


def _kernel(builder: relax.BlockBuilder) -> tvm.ir.GlobalVar:
    a, b = te.placeholder((8,), name="a"), te.placeholder((8,), name="b")
    out = te.compute((8,), lambda i: a[i] + b[i], name="out")
    return builder.add_func(te.create_prim_func([a, b, out]), "kernel")


def _promised(second: str, *, joined: bool = False) -> list[bool]:
    """Which parameters of `_kernel_of` carry the promise."""
    params = _kernel_of(second, joined=joined).params
    return [int(param.data_alignment) == ALIGNMENT for param in params]


def _kernel_of(second: str, *, joined: bool = False) -> tvm.tirx.PrimFunc:
    """`kernel(constant, second)`, called once."""
    x = relax.Var("x", relax.TensorType((8,), "float32"))
    constant = relax.const(np.ones(8, np.float32))
    builder = relax.BlockBuilder()
    kernel = _kernel(builder)
    first = builder.add_func(builder.get()[kernel].without_attr("global_symbol"), "first")
    with builder.function("main", [x]):
        with builder.dataflow():
            made = builder.emit(relax.call_tir(first, [x, x], out_ty=x.ty))
            tensors = {
                "input": lambda: x,
                "constant": lambda: constant,
                "result": lambda: made,
                "reshaped": lambda: builder.emit(
                    relax.op.reshape(builder.emit(relax.op.reshape(made, (2, 4))), (8,))
                ),
                "slice": lambda: builder.emit(
                    relax.call_pure_packed(SLICE, made, relax.prim_value(0), ty_args=[x.ty])
                ),
            }
            given = tensors[second]()
            out = builder.emit_output(relax.call_tir(kernel, [constant, given], out_ty=x.ty))
            if joined:
                whole = relax.TensorType((16,), "float32")
                join = relax.call_pure_packed(JOIN, made, out, ty_args=[whole])
                out = builder.emit_output(join)
        builder.emit_func_output(out)
    return AlignArguments()(builder.get())["kernel"]


@pytest.mark.parametrize(
    ("second", "joined", "promised"),
    [
        pytest.param("constant", False, True, id="a_constant"),
        pytest.param("result", False, True, id="what_a_kernel_made"),
        pytest.param("reshaped", False, True, id="the_same_in_another_shape"),
        pytest.param("input", False, False, id="not_the_users_memory"),
        pytest.param("slice", False, False, id="not_a_slice"),
        pytest.param("result", True, False, id="not_a_part_of_a_join"),
        pytest.param("reshaped", True, False, id="not_a_joined_part_in_another_shape"),
    ],
)
def test_what_is_promised(second, joined, promised):
    assert _promised(second, joined=joined) == [True, promised, False]


def _module(*, both_constant: bool) -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType((8,), "float32"))
    constant = relax.const(np.ones(8, np.float32))
    builder = relax.BlockBuilder()
    kernel = _kernel(builder)
    with builder.function("main", [x]):
        with builder.dataflow():
            once = builder.emit(relax.call_tir(kernel, [x, constant], out_ty=x.ty))
            second = constant if both_constant else x
            twice = builder.emit_output(relax.call_tir(kernel, [once, second], out_ty=x.ty))
        builder.emit_func_output(twice)
    return builder.get()


def _alignments(mod: tvm.IRModule) -> list[bool]:
    return [
        int(param.data_alignment) == ALIGNMENT for param in AlignArguments()(mod)["kernel"].params
    ]


def test_a_constant_in_every_call():
    assert _alignments(_module(both_constant=True)) == [False, True, False]


@pytest.mark.parametrize("both", [True, False])
def test_a_constant_is_marked_where_every_call_has_one(both):
    params = AlignArguments()(_module(both_constant=both))["kernel"].params
    assert [int(param.offset_factor) == CONSTANT for param in params] == [False, both, False]


def test_what_a_kernel_made_is_no_constant():
    promised = _kernel_of("result").params
    assert [int(param.offset_factor) == CONSTANT for param in promised] == [True, False, False]


def test_not_where_one_call_hands_it_an_input():
    assert _alignments(_module(both_constant=False)) == [False, False, False]
