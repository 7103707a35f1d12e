"""Integer operators against ONNX Runtime: the integers must be equal."""

import numpy as np

from tests.hetero_tvm.frontend.onnx_cases import RNG, UINT8, check, merged, model, node

EXACT = 0.0
SCALES = {"s": np.float32(0.02), "z": np.uint8(128), "ys": np.float32(0.1), "yz": np.uint8(100)}


def test_products(tmp_path):
    weights = {
        **SCALES,
        "w": RNG.integers(0, 255, (64, 5)).astype("uint8"),
        "ws": np.float32(0.01),
        "wz": np.uint8(120),
    }
    cases = {
        "scaled": model(
            [node("QLinearMatMul", "x s z w ws wz ys yz", "y")],
            {"x": (UINT8, [3, 64])},
            "y",
            weights,
        ),
        "integer": model(
            [node("MatMulInteger", "x w z wz", "y")], {"x": (UINT8, [3, 64])}, "y", weights
        ),
    }
    check(merged(cases), tmp_path, tolerance=EXACT)


def test_convolutions(tmp_path):
    weights = {
        **SCALES,
        "w": RNG.integers(-127, 127, (4, 3, 3, 3)).astype("int8"),
        "ws": np.array([0.01, 0.02, 0.01, 0.03], "float32"),
        "wz": np.zeros(4, "int8"),
        "b": np.array([5, -4, 3, 100], "int32"),
    }
    image = {"x": (UINT8, [1, 3, 6, 6])}
    names = "x s z w ws wz ys yz b"
    cases = {
        "scaled": model([node("QLinearConv", names, "y", pads=[1, 1, 1, 1])], image, "y", weights),
        "integer": model([node("ConvInteger", "x w z", "y")], image, "y", weights),
    }
    check(merged(cases), tmp_path, tolerance=EXACT)


def test_quantise_and_back(tmp_path):
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "y"),
        node("DynamicQuantizeLinear", "x", "d ds dz"),
    ]
    check(model(nodes, {"x": [3, 64]}, "q y d ds dz", SCALES), tmp_path, tolerance=1e-6)
