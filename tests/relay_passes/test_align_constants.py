"""Only a parameter that is a constant in every call carries the promise."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax, te

from relay_passes.align_constants import CONSTANT_ALIGNMENT, AlignConstants


def _module(*, both_constant: bool) -> tvm.IRModule:
    a, b = te.placeholder((8,), name="a"), te.placeholder((8,), name="b")
    out = te.compute((8,), lambda i: a[i] + b[i], name="out")
    x = relax.Var("x", relax.TensorType((8,), "float32"))
    constant = relax.const(np.ones(8, np.float32))
    builder = relax.BlockBuilder()
    kernel = builder.add_func(te.create_prim_func([a, b, out]), "kernel")
    with builder.function("main", [x]):
        with builder.dataflow():
            once = builder.emit(relax.call_tir(kernel, [x, constant], out_ty=x.ty))
            second = constant if both_constant else x
            twice = builder.emit_output(relax.call_tir(kernel, [once, second], out_ty=x.ty))
        builder.emit_func_output(twice)
    return builder.get()


def _alignments(mod: tvm.IRModule) -> list[bool]:
    return [
        int(param.data_alignment) == CONSTANT_ALIGNMENT
        for param in AlignConstants()(mod)["kernel"].params
    ]


def test_a_constant_in_every_call():
    assert _alignments(_module(both_constant=True)) == [False, True, False]


def test_not_where_one_call_hands_it_an_activation():
    assert _alignments(_module(both_constant=False)) == [False, False, False]
