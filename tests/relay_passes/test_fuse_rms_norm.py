"""Root-mean-square normalisation written out."""

import numpy as np
import pytest
from tvm import relax

from relay_passes.constants import array_of, tensor_constant
from relay_passes.fuse_rms_norm import FuseRmsNorm

op = relax.op


def _number(value):
    return relax.const(value, "float32")


def _bindings(build):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(build(builder.emit, x))
        builder.emit_func_output(relax.Tuple([result]))
    mod = FuseRmsNorm()(builder.get())
    assert relax.analysis.check_well_formed(mod)
    return [binding.value for binding in mod["main"].body.blocks[0].bindings]


def _spread(emit, x, axis=-1):
    mean = emit(op.mean(emit(op.multiply(x, x)), [axis], keepdims=True))
    return emit(op.sqrt(emit(op.add(mean, _number(1e-6)))))


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda emit, x: op.divide(x, _spread(emit, x)), id="quotient"),
        pytest.param(
            lambda emit, x: op.multiply(x, emit(op.divide(_number(1.0), _spread(emit, x)))),
            id="inverse_on_the_right",
        ),
        pytest.param(
            lambda emit, x: op.multiply(emit(op.divide(_number(1.0), _spread(emit, x))), x),
            id="inverse_on_the_left",
        ),
    ],
)
def test_forms(build):
    gain = tensor_constant(np.arange(8, dtype="float32"))
    (norm,) = _bindings(lambda emit, x: op.multiply(gain, emit(build(emit, x))))
    assert norm.op.name == "relax.nn.rms_norm"
    assert array_of(norm.args[1]).tolist() == list(range(8))
    assert float(norm.attrs.epsilon) == pytest.approx(1e-6)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda emit, x: op.divide(x, _spread(emit, x, axis=1)), id="another_axis"),
        pytest.param(
            lambda emit, x: op.divide(emit(op.exp(x)), _spread(emit, x)), id="another_numerator"
        ),
    ],
)
def test_leaves_alone(build):
    assert all(call.op.name != "relax.nn.rms_norm" for call in _bindings(build))
