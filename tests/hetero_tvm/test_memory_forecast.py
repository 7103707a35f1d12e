"""Counted bytes by hand, on programs where one can."""

import numpy as np
import pytest
from tvm import relax

from hetero_tvm.memory_forecast import (
    BUILD_BASE_BYTES,
    BUILD_PER_WEIGHT_BYTE,
    LOAD_BASE_BYTES,
    LOAD_PER_WEIGHT_BYTE,
    NPU_WINDOW_BYTES,
    forecast,
    live_bytes,
    weight_bytes,
)
from relay_passes.program import read_program

KB = 1024  # of one tensor [16, 16] of float32


def program(build):
    x = relax.Var("x", relax.TensorType((16, 16), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(build(builder, x), "out")
        builder.emit_func_output(out)
    return read_program(relax.transform.Normalize()(builder.get()))


# (weights, build, load) in MB as measured; None where it was not.
MEASURED = [(134.2, 1674, 924), (268.4, 3029, 1299), (69.0, None, 678)]


@pytest.mark.parametrize(("weights", "build", "load"), MEASURED)
def test_the_constants_fit_what_was_measured(weights, build, load):
    if build is not None:
        assert BUILD_BASE_BYTES + BUILD_PER_WEIGHT_BYTE * weights * 1e6 == pytest.approx(
            build * 1e6, rel=0.1
        )
    assert LOAD_BASE_BYTES + LOAD_PER_WEIGHT_BYTE * weights * 1e6 == pytest.approx(
        load * 1e6, rel=0.1
    )


def test_a_chain_holds_two_tensors():
    def chain(builder, x):
        for _ in range(5):
            x = builder.emit(relax.op.nn.relu(x))
        return relax.op.nn.softmax(x)

    assert live_bytes(program(chain)) == 2 * KB


def test_what_is_read_late_lives_long():
    def residual(builder, x):
        first = builder.emit(relax.op.nn.relu(x))
        last = first
        for _ in range(3):
            last = builder.emit(relax.op.nn.relu(last))
        return relax.op.add(first, last)

    assert live_bytes(program(residual)) == 3 * KB


def test_a_view_takes_nothing_and_keeps_what_it_shows():
    def viewed(builder, x):
        first = builder.emit(relax.op.nn.relu(x))
        flat = builder.emit(relax.op.reshape(first, (256,)))
        soft = builder.emit(relax.op.nn.softmax(x))
        more = builder.emit(relax.op.nn.relu(soft))
        return relax.op.add(relax.op.reshape(more, (256,)), flat)

    # first (shown by flat), soft and more
    assert live_bytes(program(viewed)) == 3 * KB


def test_equal_constants_count_once():
    weight = relax.const(np.ones((16, 16), "float32"))

    def twice(builder, x):
        return relax.op.matmul(builder.emit(relax.op.matmul(x, weight)), weight)

    assert list(weight_bytes(program(twice)).values()) == [KB]


def test_forecast_adds_up():
    weights = [relax.const(np.ones((16, 16), "float32")) for _ in range(2)]

    def two(builder, x):
        return relax.op.matmul(builder.emit(relax.op.matmul(x, weights[0]), "first"), weights[1])

    nodes = program(two)
    found = forecast(nodes, {"first": True})
    assert (found.weights, found.largest_weight, found.npu_weights) == (2 * KB, KB, KB)
    assert found.activations == 2 * KB
    assert found.build == BUILD_BASE_BYTES + BUILD_PER_WEIGHT_BYTE * 2 * KB
    assert (found.npu_window, found.npu_parts) == (NPU_WINDOW_BYTES, 1)
    assert forecast(nodes, {}).npu_parts == 0
