"""GELU in every grouping of its factors, and what only looks like it."""

import math

import pytest
from tvm import relax

from relay_passes.fuse_gelu import FuseGelu

op = relax.op


def _number(value):
    return relax.const(value, "float32")


def _after(build):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(build(builder.emit, builder.emit(op.nn.relu(x))))
        builder.emit_func_output(relax.Tuple([result]))
    mod = FuseGelu()(builder.get())
    assert relax.analysis.check_well_formed(mod)
    bindings = mod["main"].body.blocks[0].bindings
    return [b.value.op.name.removeprefix("relax.") for b in bindings][1:]


def _gate(emit, x, curve=op.erf):
    inner = emit(op.divide(x, _number(math.sqrt(2))))
    return emit(op.add(emit(curve(inner)), _number(1.0)))


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(
            lambda emit, x: op.multiply(emit(op.multiply(x, _gate(emit, x))), _number(0.5)),
            id="x_gate_half",
        ),
        pytest.param(
            lambda emit, x: op.multiply(emit(op.multiply(_number(0.5), x)), _gate(emit, x)),
            id="half_x_gate",
        ),
        pytest.param(
            lambda emit, x: op.multiply(x, emit(op.multiply(_number(0.5), _gate(emit, x)))),
            id="x_half_gate",
        ),
    ],
)
def test_erf_form(build):
    assert _after(build) == ["nn.gelu"]


def test_tanh_form():
    def build(emit, x):
        cube = emit(op.power(x, _number(3.0)))
        bent = emit(op.add(x, emit(op.multiply(_number(0.044715), cube))))
        curve = emit(op.tanh(emit(op.multiply(_number(math.sqrt(2 / math.pi)), bent))))
        gate = emit(op.add(_number(1.0), curve))
        return op.multiply(emit(op.multiply(_number(0.5), x)), gate)

    assert _after(build) == ["nn.gelu_tanh"]


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(
            lambda emit, x: op.multiply(emit(op.multiply(x, _gate(emit, x))), _number(0.25)),
            id="quarter",
        ),
        pytest.param(
            lambda emit, x: op.multiply(
                emit(op.multiply(x, _gate(emit, emit(op.exp(x))))), _number(0.5)
            ),
            id="another_argument",
        ),
        pytest.param(
            lambda emit, x: op.multiply(
                emit(op.multiply(x, _gate(emit, x, op.tanh))), _number(0.5)
            ),
            id="another_curve",
        ),
        pytest.param(
            lambda emit, x: op.multiply(
                emit(op.multiply(emit(op.multiply(x, x)), _gate(emit, x))), _number(0.5)
            ),
            id="one_factor_more",
        ),
    ],
)
def test_leaves_alone(build):
    assert not any("gelu" in name for name in _after(build))
