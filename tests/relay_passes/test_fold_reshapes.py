"""Reshapes and transposes that meet."""

# ruff: noqa: N805 - a TVMScript function in a module class has no `self`

import pytest
from tvm import relax
from tvm.ir import assert_structural_equal
from tvm.script import ir as I
from tvm.script import relax as R

from relay_passes.fold_reshapes import FoldReshapes


def _after(build, *shape):
    """`build(x)` for `x` of `shape`, folded: the calls from input to output."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(build(x))
        builder.emit_func_output(relax.Tuple([result]))
    mod = FoldReshapes()(builder.get())
    assert relax.analysis.check_well_formed(mod)
    block = mod["main"].body.blocks[0] if mod["main"].body.blocks else None
    bindings = block.bindings if block is not None else []
    return [binding.value.op.name.removeprefix("relax.") for binding in bindings]


op = relax.op


@pytest.mark.parametrize(
    ("build", "calls"),
    [
        pytest.param(
            lambda x: op.reshape(op.reshape(x, (6, 4)), (24,)), ["reshape"], id="pair_is_one"
        ),
        pytest.param(lambda x: op.reshape(op.reshape(x, (24,)), (2, 3, 4)), [], id="pair_cancels"),
        pytest.param(
            lambda x: op.permute_dims(op.permute_dims(x, [1, 2, 0]), [2, 0, 1]),
            [],
            id="transposes_cancel",
        ),
        pytest.param(
            lambda x: op.permute_dims(op.permute_dims(x, [1, 2, 0]), [1, 2, 0]),
            ["permute_dims"],
            id="transposes_join",
        ),
        pytest.param(
            lambda x: op.permute_dims(op.reshape(x, (1, 24, 1)), [2, 1, 0]),
            ["reshape"],
            id="only_ones_move",
        ),
        pytest.param(
            lambda x: op.reshape(op.nn.relu(op.reshape(x, (24,))), (2, 3, 4)),
            ["nn.relu"],
            id="reshape_passes_elementwise",
        ),
        pytest.param(
            lambda x: op.reshape(
                op.multiply(op.reshape(x, (24,)), relax.const(2.0, "float32")), (2, 3, 4)
            ),
            ["multiply"],
            id="reshape_passes_scalar_constants",
        ),
    ],
)
def test_folds(build, calls):
    assert _after(build, 2, 3, 4) == calls


@pytest.mark.parametrize(
    ("build", "calls"),
    [
        pytest.param(
            lambda x: op.permute_dims(x, [1, 0, 2]), ["permute_dims"], id="real_transpose"
        ),
        pytest.param(
            lambda x: op.nn.softmax(op.reshape(x, (24,)), axis=-1),
            ["reshape", "nn.softmax"],
            id="not_elementwise",
        ),
    ],
)
def test_leaves_alone(build, calls):
    assert _after(build, 2, 3, 4) == calls


def test_reshape_read_twice_does_not_move():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((2, 3), "float32")) -> R.Tensor((6,), "float32"):
            with R.dataflow():
                flat = R.reshape(x, (6,))
                a = R.exp(flat)
                b = R.add(a, flat)
                R.output(b)
            return b

    assert_structural_equal(FoldReshapes()(Module), Module)
