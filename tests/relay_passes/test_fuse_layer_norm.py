"""Layer normalisation written out."""

import numpy as np
import pytest
from tvm import relax

from relay_passes.constants import array_of, tensor_constant
from relay_passes.fuse_layer_norm import FuseLayerNorm, fits_gain

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
    mod = FuseLayerNorm()(builder.get())
    assert relax.analysis.check_well_formed(mod)
    return [binding.value for binding in mod["main"].body.blocks[0].bindings]


def _standardise(emit, x, axes=(-1,), spread_axes=None):
    centred = emit(op.subtract(x, emit(op.mean(x, list(axes), keepdims=True))))
    square = emit(op.multiply(centred, centred))
    variance = emit(op.mean(square, list(spread_axes or axes), keepdims=True))
    spread = emit(op.sqrt(emit(op.add(variance, _number(1e-3)))))
    return op.divide(centred, spread)


def test_bare_form():
    (norm,) = _bindings(_standardise)
    assert norm.op.name == "relax.nn.layer_norm"
    assert [int(a) for a in norm.attrs.axes] == [2]
    assert float(norm.attrs.epsilon) == pytest.approx(1e-3)


def test_gains_and_shifts_are_taken_in():
    gain = np.arange(8, dtype="float32")
    shift = np.full((1, 1, 8), 2, "float32")

    def build(emit, x):
        scaled = emit(op.multiply(emit(_standardise(emit, x)), tensor_constant(gain)))
        return op.multiply(emit(op.add(scaled, tensor_constant(shift))), _number(3.0))

    (norm,) = _bindings(build)
    assert array_of(norm.args[1]).tolist() == (gain * 3).tolist()
    assert array_of(norm.args[2]).tolist() == [6.0] * 8


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda emit, x: _standardise(emit, x, axes=(1,)), id="not_the_last_axis"),
        pytest.param(
            lambda emit, x: _standardise(emit, x, axes=(-1,), spread_axes=(1, 2)),
            id="mean_and_variance_differ",
        ),
        pytest.param(
            lambda emit, x: op.divide(x, emit(op.sqrt(emit(op.add(x, _number(1.0)))))),
            id="no_variance",
        ),
    ],
)
def test_leaves_alone(build):
    assert all(call.op.name != "relax.nn.layer_norm" for call in _bindings(build))


def test_a_constant_along_another_axis_stays_outside():
    rows = tensor_constant(np.ones((3, 1), "float32"))
    calls = _bindings(lambda emit, x: op.multiply(emit(_standardise(emit, x)), rows))
    assert [call.op.name for call in calls] == ["relax.nn.layer_norm", "relax.multiply"]


@pytest.mark.parametrize(
    ("shape", "fits"), [((), True), ((1,), True), ((1, 1, 8), True), ((3, 8), False), ((4,), False)]
)
def test_which_constants_fit(shape, fits):
    assert (fits_gain(np.ones(shape), np.ones(8)) is not None) == fits
