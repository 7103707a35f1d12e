"""Views of constants become constants."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.ir import GenericConst

from relay_passes.fold_constant_views import FoldConstantViews

_VALUE = np.arange(24, dtype="float32").reshape(2, 3, 4)


def _module(build) -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType((1,), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            view = builder.emit(build(builder, relax.const(_VALUE)))
            result = builder.emit_output(relax.op.add(view, x))
        builder.emit_func_output(result)
    return builder.get()


@pytest.mark.parametrize(
    ("build", "want"),
    [
        pytest.param(lambda b, c: relax.op.reshape(c, (6, 4)), _VALUE.reshape(6, 4), id="reshape"),
        pytest.param(
            lambda b, c: relax.op.permute_dims(c, [2, 0, 1]),
            _VALUE.transpose(2, 0, 1),
            id="permute_dims",
        ),
        pytest.param(lambda b, c: relax.op.permute_dims(c), _VALUE.T, id="reversed_by_default"),
        pytest.param(lambda b, c: relax.op.expand_dims(c, 1), _VALUE[:, None], id="expand_dims"),
        pytest.param(
            lambda b, c: relax.op.reshape(b.emit(relax.op.permute_dims(c, [1, 0, 2])), (3, 8)),
            _VALUE.transpose(1, 0, 2).reshape(3, 8),
            id="a_chain",
        ),
    ],
)
def test_folds(build, want):
    after = FoldConstantViews()(_module(build))
    (binding,) = after["main"].body.blocks[0].bindings
    constant = binding.value.args[0]
    assert isinstance(constant, GenericConst)
    np.testing.assert_array_equal(constant.value.numpy(), want)


def test_a_view_of_a_variable_stays():
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(relax.op.reshape(x, (3, 2)))
        builder.emit_func_output(result)
    before = builder.get()
    tvm.ir.assert_structural_equal(FoldConstantViews()(before), before)
