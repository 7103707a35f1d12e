"""float16 between operators, the model's own types at its border."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from on_gpu import assert_close, lower, normal, run_lowered
from tvm import relax
from tvm.ir import GenericConst

from relay_passes.to_half import ToHalf


def _module(build, *types) -> tvm.IRModule:
    params = [
        relax.Var(f"x{n}", relax.TensorType(shape, dtype)) for n, (shape, dtype) in enumerate(types)
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(build(builder, *params), "result")
        builder.emit_func_output(result)
    return builder.get()


def _network(builder, x, rows):
    weight, scale = relax.const(normal(1, 16, 24)), relax.const(normal(2, 24))
    product = builder.emit(relax.op.matmul(x, weight, out_dtype="float32"), "product")
    norm = builder.emit(relax.op.nn.layer_norm(product, scale, scale, axes=[-1]), "norm")
    taken = builder.emit(relax.op.take(norm, rows, axis=0), "taken")
    wide = builder.emit(relax.op.astype(rows, "float32"), "wide")
    column = builder.emit(relax.op.reshape(wide, (3, 1)), "column")
    return relax.op.nn.softmax(relax.op.add(taken, column))


_TYPES = (((5, 16), "float32"), ((3,), "int64"))


def test_the_border_keeps_its_types_and_nothing_else_is_float32():
    before = _module(_network, *_TYPES)
    after = ToHalf()(before)
    relax.analysis.well_formed(after)
    tvm.ir.assert_structural_equal(after["main"].ty, before["main"].ty)
    block = after["main"].body.blocks[0]
    single = [b.var for b in block.bindings if str(b.var.ty.dtype) == "float32"]
    assert len(single) == 1  # the result
    for binding in block.bindings:
        for arg in getattr(binding.value, "args", []):
            assert not isinstance(arg, GenericConst) or str(arg.ty.dtype) != "float32"


def test_operators_keep_their_names():
    after = ToHalf()(_module(_network, *_TYPES))
    names = {binding.var.name for binding in after["main"].body.blocks[0].bindings}
    assert {"product", "norm", "taken", "wide", "column"} <= names


@pytest.mark.parametrize(
    ("value", "want"),
    [
        pytest.param(-3.4e38, -65504.0, id="a_mask_stays_finite"),
        pytest.param(1e-12, 2.0**-24, id="an_epsilon_stays_positive"),
        pytest.param(-1e-12, -(2.0**-24), id="a_tiny_value_keeps_its_sign"),
        pytest.param(0.0, 0.0, id="zero_is_zero"),
        pytest.param(0.1, float(np.float16(0.1)), id="others_are_rounded"),
    ],
)
def test_constants(value, want):
    mod = _module(lambda b, x: relax.op.add(x, relax.const(value, "float32")), ((4,), "float32"))
    constants = [
        arg.value.numpy()
        for binding in ToHalf()(mod)["main"].body.blocks[0].bindings
        for arg in getattr(binding.value, "args", [])
        if isinstance(arg, GenericConst)
    ]
    assert constants == [want]


def test_integers_are_left_alone():
    mod = _module(lambda b, x: relax.op.add(x, x), ((4,), "int64"))
    text = ToHalf()(mod)["main"].script()
    assert "float16" not in text
    assert "astype" not in text


def test_several_results():
    def build(builder, x):
        first = builder.emit(relax.op.exp(x), "first")
        return relax.Tuple([first, x])

    after = ToHalf()(_module(build, ((4,), "float32")))
    assert [str(field.dtype) for field in after["main"].ty.ret.fields] == ["float32", "float32"]


def test_numbers_on_the_device():
    mod = _module(_network, *_TYPES)
    x, rows = normal(3, 5, 16), np.int64([4, 0, 2])
    (want,) = run_lowered(lower(mod), [x, rows])
    (got,) = run_lowered(lower(ToHalf()(mod)), [x, rows])
    assert got.dtype == np.float32
    # A handful of roundings to 11 bits, through a norm and an exp of values of a few units.
    assert_close(got, want.astype(np.float64), 1e-2)
