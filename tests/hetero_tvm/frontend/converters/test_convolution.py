"""Convolutions and pooling against ONNX Runtime."""

import numpy as np
import pytest

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend import import_model
from tests.hetero_tvm.frontend.onnx_cases import (
    check,
    merged,
    model,
    node,
    one,
    op_counts,
    randn,
    save,
)


def _conv(shape, kernel, op="Conv", **attributes):
    channels = kernel[0] if op == "Conv" else kernel[1] * attributes.get("group", 1)
    return one(op, {"x": shape}, {"w": randn(*kernel), "b": randn(channels)}, **attributes)


def test_convolutions(tmp_path):
    cases = {
        "pads": _conv([1, 4, 9, 9], (6, 4, 3, 3), pads=[1, 1, 1, 1]),
        "uneven": _conv([1, 4, 9, 9], (6, 4, 3, 3), strides=[2, 2], pads=[0, 1, 1, 0]),
        "groups": _conv([1, 4, 9, 9], (6, 2, 3, 3), group=2, dilations=[2, 2]),
        "depthwise": _conv([1, 4, 9, 9], (4, 1, 3, 3), group=4),
        "upper": _conv([1, 4, 9, 8], (6, 4, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
        "lower": _conv([1, 4, 9, 8], (6, 4, 3, 3), auto_pad="SAME_LOWER", strides=[2, 2]),
        "valid": _conv([1, 4, 9, 8], (6, 4, 3, 3), auto_pad="VALID"),
    }
    imported = check(merged(cases), tmp_path)
    assert op_counts(imported) == {"nn.conv2d": 7, "add": 7}


def test_volumes(tmp_path):
    check(_conv([1, 2, 4, 5, 6], (3, 2, 3, 3, 3), pads=[1] * 6), tmp_path)


def test_lines_become_planes_without_reshapes_between(tmp_path):
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 2], strides=[2]),
        node("Relu", "c", "r"),
        node("Conv", "r v", "y"),
    ]
    weights = {"w": randn(6, 4, 3), "b": randn(6), "v": randn(3, 6, 2)}
    imported = check(model(nodes, {"x": [2, 4, 9]}, "y", weights), tmp_path)
    assert op_counts(imported) == {"reshape": 2, "nn.conv2d": 2, "add": 1, "nn.relu": 1}


def test_transposed_convolutions(tmp_path):
    size, kernel = [1, 4, 5, 4], (4, 6, 3, 3)
    double = {"strides": [2, 2]}
    cases = {
        "plain": _conv(size, kernel, "ConvTranspose", **double),
        "extra": _conv(
            size, kernel, "ConvTranspose", pads=[1, 0, 0, 1], output_padding=[1, 1], **double
        ),
        "groups": _conv(size, (4, 3, 3, 3), "ConvTranspose", group=2, pads=[1, 1, 1, 1]),
        "shape": _conv(size, kernel, "ConvTranspose", output_shape=[10, 9], **double),
        "upper": _conv(size, kernel, "ConvTranspose", auto_pad="SAME_UPPER", **double),
        "line": _conv([1, 4, 5], (4, 6, 3), "ConvTranspose", strides=[2], output_padding=[1]),
    }
    check(merged(cases), tmp_path)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pooling(tmp_path, op):
    shape = {"x": [1, 4, 8, 8]}
    cases = {
        "plain": one(op, shape, opset=19, kernel_shape=[3, 2], strides=[2, 2]),
        "pads": one(op, shape, opset=19, kernel_shape=[3, 2], pads=[1, 1, 0, 1]),
        "ceil": one(op, shape, opset=19, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        "upper": one(op, shape, opset=19, kernel_shape=[3, 2], auto_pad="SAME_UPPER"),
        "line": one(op, {"x": [1, 4, 9]}, opset=19, kernel_shape=[3], strides=[2]),
        "dilated": one(op, shape, opset=19, kernel_shape=[2, 2], dilations=[2, 2]),
    }
    check(merged(cases), tmp_path)


def test_average_may_count_the_padding(tmp_path):
    attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    check(one("AveragePool", {"x": [1, 2, 6, 6]}, **attributes), tmp_path)


def test_pooling_with_indices_is_refused(tmp_path):
    proto = one("MaxPool", {"x": [1, 2, 6, 6]}, outputs="y i", kernel_shape=[2, 2])
    with pytest.raises(BadInput, match=r"node 'y' \(MaxPool\): the indices of a MaxPool"):
        import_model(save(proto, tmp_path))


def test_global_pooling_and_batch_normalisation(tmp_path):
    statistics = {"g": randn(4), "b": randn(4), "m": randn(4), "v": np.abs(randn(4)) + 0.1}
    cases = {
        "mean": one("GlobalAveragePool", {"x": [1, 4, 3, 3]}),
        "max": one("GlobalMaxPool", {"x": [1, 4, 3, 3]}),
        "norm": one("BatchNormalization", {"x": [2, 4, 3, 3]}, statistics),
        "open": one(
            "BatchNormalization",
            {"x": [2, 4, 3], "g": [4], "b": [4]},
            {"m": statistics["m"], "v": statistics["v"]},
        ),
    }
    counts = op_counts(check(merged(cases), tmp_path))
    assert counts["mean"] == counts["max"] == 1
