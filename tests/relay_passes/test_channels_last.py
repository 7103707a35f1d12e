"""Convolutions run channels last; permutations that meet are gone; numbers and names stay."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from on_gpu import normal
from tvm import relax
from tvm.ir import Op

from relay_passes.channels_last import ChannelsLast


def _module(build, *shapes) -> tvm.IRModule:
    params = [
        relax.Var(f"x{n}", relax.TensorType(shape, "float32")) for n, shape in enumerate(shapes)
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(build(builder, *params))
        builder.emit_func_output(result)
    return builder.get()


def _count(mod: tvm.IRModule, op: str) -> int:
    values = [b.value for block in mod["main"].body.blocks for b in block.bindings]
    return sum(isinstance(v, relax.Call) and v.op == Op.get(op) for v in values)


def _evaluate(mod: tvm.IRModule, arrays: list[np.ndarray]) -> np.ndarray:
    target = tvm.target.Target({"kind": "llvm"})
    machine = relax.VirtualMachine(tvm.compile(mod, target=target), tvm.cpu())
    return machine["main"](*map(tvm.runtime.tensor, arrays)).numpy()


def _weight(outputs: int, inputs: int) -> relax.Expr:
    return relax.const(normal(1, outputs, inputs, 1, 1))


def _network(builder, x):
    emit = builder.emit
    conv = emit(
        relax.op.nn.conv2d(x, relax.const(normal(1, 8, 3, 3, 3)), padding=[1, 1, 1, 1]), "conv"
    )
    biased = emit(relax.op.add(conv, relax.const(normal(2, 8, 1, 1))), "biased")
    active = emit(relax.op.nn.relu(biased), "active")
    pooled = emit(relax.op.nn.max_pool2d(active, [2, 2], [2, 2]), "pooled")
    gate = emit(relax.op.mean(pooled, axis=[2, 3], keepdims=True), "gate")
    gated = emit(relax.op.multiply(pooled, gate), "gated")
    both = emit(relax.op.concat([gated, pooled], 1), "both")
    grown = emit(relax.op.image.resize2d(both, (10, 12), layout="NCHW"), "grown")
    padded = emit(relax.op.nn.pad(grown, [0, 0, 0, 0, 1, 2, 3, 4]), "padded")
    return relax.op.nn.conv2d(padded, relax.const(normal(3, 5, 16, 1, 1)))


def test_one_permutation_in_and_one_out():
    after = ChannelsLast()(_module(_network, (1, 3, 10, 12)))
    assert _count(after, "relax.permute_dims") == 2
    assert relax.analysis.check_well_formed(after)


def test_numbers_and_types_stay():
    before = _module(_network, (1, 3, 10, 12))
    after = ChannelsLast()(before)
    tvm.ir.assert_structural_equal(before["main"].ty, after["main"].ty)
    x = normal(4, 1, 3, 10, 12)
    # The same products, summed in another order.
    np.testing.assert_allclose(_evaluate(after, [x]), _evaluate(before, [x]), rtol=1e-4, atol=1e-4)


def test_bindings_keep_their_names():
    after = ChannelsLast()(_module(_network, (1, 3, 10, 12)))
    names = {b.var.name for block in after["main"].body.blocks for b in block.bindings}
    assert {"conv", "biased", "active", "pooled", "gate", "gated", "both", "grown"} <= names


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(
            lambda b, x: relax.op.nn.relu(relax.op.add(x, x)), id="no_convolution_near_it"
        ),
        pytest.param(
            lambda b, x: relax.op.nn.conv2d(
                x, relax.const(normal(1, 4, 6, 1, 1)), data_layout="NHWC"
            ),
            id="channels_last_already",
        ),
    ],
)
def test_leaves_alone(build):
    before = _module(lambda b, x: b.normalize(build(b, x)), (1, 5, 5, 6))
    before = relax.transform.Normalize()(before)
    tvm.ir.assert_structural_equal(ChannelsLast()(before), before)


@pytest.mark.parametrize(
    "after_conv",
    [
        pytest.param(lambda v: relax.op.permute_dims(v, [0, 2, 3, 1]), id="its_own_permutation"),
        pytest.param(lambda v: relax.op.reshape(v, (2, 4 * 5 * 5)), id="flatten_of_a_plane"),
        pytest.param(lambda v: relax.op.mean(v, axis=[2, 3]), id="pooled_to_two_axes"),
        pytest.param(lambda v: relax.op.sum(v, axis=[1]), id="sum_over_channels"),
        pytest.param(lambda v: relax.op.nn.softmax(v, axis=1), id="softmax_over_channels"),
        pytest.param(lambda v: relax.op.nn.softmax(v, axis=3), id="softmax_over_width"),
        pytest.param(lambda v: relax.op.multiply(v, relax.const(normal(5, 5))), id="row_constant"),
        pytest.param(lambda v: relax.op.add(v, relax.const(2.0, "float32")), id="scalar"),
    ],
)
def test_what_follows_a_convolution_gets_the_same_numbers(after_conv):
    def build(builder, x):
        conv = builder.emit(relax.op.nn.conv2d(x, relax.const(normal(1, 4, 3, 1, 1))))
        return after_conv(conv)

    before = _module(build, (2, 3, 5, 5))
    x = normal(2, 2, 3, 5, 5)
    after = ChannelsLast()(before)
    np.testing.assert_allclose(_evaluate(after, [x]), _evaluate(before, [x]), rtol=1e-5, atol=1e-5)


def test_a_one_dimensional_convolution_becomes_two_dimensional():
    before = _module(
        lambda b, x: relax.op.nn.conv1d(x, relax.const(normal(1, 4, 3, 3)), padding=[1, 1]),
        (2, 3, 9),
    )
    after = ChannelsLast()(before)
    assert _count(after, "relax.nn.conv2d") == 1
    x = normal(2, 2, 3, 9)
    np.testing.assert_allclose(_evaluate(after, [x]), _evaluate(before, [x]), rtol=1e-5, atol=1e-5)
