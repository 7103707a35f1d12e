"""Constants folded into weights: structure, and the same numbers as ONNX Runtime."""

import numpy as np
import pytest

from tests.hetero_tvm.frontend.onnx_cases import check, model, node, op_counts, randn

IMAGE = {"x": [1, 3, 5, 5]}
PER_CHANNEL = (4, 1, 1)


def _after_conv(*nodes, **weights):
    weights = {"w": randn(4, 3, 3, 3), "b": randn(4)} | weights
    return model([node("Conv", "x w b", "c", name="conv"), *nodes], IMAGE, "y", weights)


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        pytest.param([node("Mul", "c s", "y")], {"s": randn(*PER_CHANNEL)}, id="scale"),
        pytest.param([node("Div", "c s", "y")], {"s": np.float32(3)}, id="quotient"),
        pytest.param([node("Sub", "s c", "y")], {"s": np.float32(1)}, id="subtracted_from"),
        pytest.param(
            [node("Mul", "s c", "m"), node("Add", "m t", "y")],
            {"s": randn(*PER_CHANNEL), "t": randn(1, *PER_CHANNEL)},
            id="chain",
        ),
        pytest.param(
            [node("BatchNormalization", "c g o m v", "y")],
            {"g": randn(4), "o": randn(4), "m": randn(4), "v": np.abs(randn(4)) + 0.1},
            id="batch_normalisation",
        ),
    ],
)
def test_joins_the_convolution(tmp_path, nodes, weights):
    imported = check(_after_conv(*nodes, **weights), tmp_path)
    assert op_counts(imported) == {"nn.conv2d": 1, "add": 1}
    assert set(imported.node_of.values()) == {"conv"}


def test_joins_transposed_convolutions_and_products(tmp_path):
    nodes = [node("ConvTranspose", "x w", "c"), node("Mul", "c s", "y")]
    proto = model(nodes, IMAGE, "y", {"w": randn(3, 4, 2, 2), "s": randn(*PER_CHANNEL)})
    assert op_counts(check(proto, tmp_path)) == {"nn.conv2d_transpose": 1, "add": 1}
    nodes = [node("MatMul", "x w", "c"), node("Mul", "c s", "y")]
    proto = model(nodes, {"x": [2, 3]}, "y", {"w": randn(3, 4), "s": randn(4)})
    assert op_counts(check(proto, tmp_path)) == {"matmul": 1}


def test_joins_constants(tmp_path):
    nodes = [node("Add", "x a", "c"), node("Add", "b c", "y")]
    proto = model(nodes, {"x": [2, 3]}, "y", {"a": randn(3), "b": randn(2, 3)})
    assert op_counts(check(proto, tmp_path)) == {"add": 1}


@pytest.mark.parametrize(
    ("nodes", "outputs", "weights", "multiplies"),
    [
        pytest.param(
            [node("Mul", "c s", "y")], "y", {"s": randn(1, 1, 3, 3)}, 1, id="varies_along_the_image"
        ),
        pytest.param(
            [node("Mul", "c s", "y")], "y c", {"s": randn(*PER_CHANNEL)}, 1, id="also_an_output"
        ),
        pytest.param(
            [node("Mul", "c s", "m"), node("Add", "m c", "y")],
            "y",
            {"s": randn(*PER_CHANNEL)},
            1,
            id="read_twice",
        ),
    ],
)
def test_leaves_alone(tmp_path, nodes, outputs, weights, multiplies):
    weights = {"w": randn(4, 3, 3, 3)} | weights
    proto = model([node("Conv", "x w", "c"), *nodes], IMAGE, outputs, weights)
    assert op_counts(check(proto, tmp_path))["multiply"] == multiplies


def test_grouped_transposed_convolution_keeps_its_weights(tmp_path):
    nodes = [node("ConvTranspose", "x w", "c", group=2), node("Mul", "c s", "y")]
    weights = {"w": randn(4, 3, 2, 2), "s": randn(6, 1, 1)}
    imported = check(model(nodes, {"x": [1, 4, 3, 3]}, "y", weights), tmp_path)
    assert op_counts(imported)["multiply"] == 1
