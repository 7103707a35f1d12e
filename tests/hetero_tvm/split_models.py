"""Small ONNX models with something to cut, each with its plans."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Place = str | tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, and a place for its operators by kind; those that are not named run on the GPU."""

    model: str
    places: dict[str, Place]
    rows: int = 1

    def write(self, path: Path) -> Path:
        onnx.save(_MODELS[self.model](self.rows), path)
        return path


ROWS = {"matmul": (0, 3), "add": (0, 3), "nn.relu": (0, 3)}
CASES = {
    # One row: the parts of a cut weight lie behind each other as they are.
    "weight": Case("gemm", {"matmul": (1, 32)}),
    "weight_odd": Case("gemm", {"matmul": (1, 5)}),
    "weight_of_many_rows": Case("gemm", {"matmul": (1, 32)}, rows=7),
    "weight_chain_to_the_activation": Case(
        "mlp", {"matmul": (1, 16), "add": (1, 16), "nn.relu": (1, 16)}, rows=5
    ),
    "activation": Case("gemm", {"matmul": (0, 2)}, rows=5),
    "activation_chain": Case("mlp", ROWS, rows=7),
    "activation_chain_with_residual": Case("residual", ROWS, rows=8),
    "activation_joined_for_the_npu": Case("mlp", {**ROWS, "nn.relu": "npu"}, rows=7),
    "weight_then_activation": Case(
        "mlp", {"matmul": (1, 16), "add": (0, 3), "nn.relu": (0, 3)}, rows=7
    ),
    "heads": Case(
        "attention",
        {"matmul": (1, 1), "nn.softmax": (1, 1), "permute_dims": (1, 1), "multiply": (1, 1)},
        rows=6,
    ),
    "packed_product_by_weight": Case("gated", {"matmul": (1, 16)}, rows=3),
    "packed_product_by_rows": Case(
        "gated",
        {name: (0, 3) for name in ("matmul", "strided_slice", "sigmoid", "multiply", "nn.silu")},
        rows=7,
    ),
    "conv_channels": Case("conv", {"nn.conv2d": (1, 3), "nn.relu": (1, 3)}),
    "conv_rows": Case("conv", {"nn.conv2d": (2, 4), "nn.relu": (2, 4)}),
    "conv_rows_of_images": Case("conv", {"nn.conv2d": (2, 7), "nn.relu": (2, 7)}, rows=2),
    "conv_rows_chain": Case(
        "separable",
        {name: (2, 8) for name in ("nn.conv2d", "nn.relu", "add", "nn.max_pool2d")},
    ),
    "conv_images": Case("conv", {"nn.conv2d": (0, 1), "nn.relu": (0, 1)}, rows=2),
}


def weight_of(name: str, *shape: int) -> onnx.TensorProto:
    """Random, so large that products keep the size of what goes in."""
    rng = np.random.default_rng(len(name) + sum(shape))
    scale = 1 / np.sqrt(np.prod(shape[:-1]) if len(shape) < 4 else np.prod(shape[1:]))
    return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name)


def model_of(
    nodes: list[onnx.NodeProto],
    given: tuple[int, ...],
    made: tuple[int, ...],
    *weights: onnx.TensorProto,
) -> onnx.ModelProto:
    """One float32 input `x`, one output `y`."""
    graph = helper.make_graph(
        nodes,
        "split",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, made)],
        list(weights),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _gemm(rows: int) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return model_of(nodes, (rows, 64), (rows, 96), weight_of("w", 64, 96))


def _mlp(rows: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h0"]),
        helper.make_node("Add", ["h0", "b0"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("MatMul", ["h2", "w1"], ["y"]),
    ]
    weights = weight_of("w0", 32, 48), weight_of("b0", 48), weight_of("w1", 48, 64)
    return model_of(nodes, (rows, 32), (rows, 64), *weights)


def _residual(rows: int) -> onnx.ModelProto:
    """Bias, activation and residual behind one product, all within one kernel."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h0"]),
        helper.make_node("Add", ["h0", "b"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("Add", ["h2", "x"], ["y"]),
    ]
    return model_of(nodes, (rows, 32), (rows, 32), weight_of("w", 32, 32), weight_of("b", 32))


def _gated(rows: int) -> onnx.ModelProto:
    """Gate and up projections in one product, as exporters pack them."""
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["both"]),
        helper.make_node("Split", ["both"], ["gate", "up"], axis=-1, num_outputs=2),
        helper.make_node("Sigmoid", ["gate"], ["open"]),
        helper.make_node("Mul", ["gate", "open"], ["silu"]),
        helper.make_node("Mul", ["silu", "up"], ["h"]),
        helper.make_node("MatMul", ["h", "w1"], ["y"]),
    ]
    return model_of(nodes, (rows, 32), (rows, 32), weight_of("w0", 32, 96), weight_of("w1", 48, 32))


def _attention(rows: int) -> onnx.ModelProto:
    """Three heads of sixteen on themselves."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["x", "t"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "x"], ["y"]),
    ]
    return model_of(nodes, (1, 3, rows, 16), (1, 3, rows, 16))


def _conv(images: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    weights = weight_of("w", 8, 4, 3, 3), weight_of("b", 8)
    return model_of(nodes, (images, 4, 10, 12), (images, 8, 10, 12), *weights)


def _separable(images: int) -> onnx.ModelProto:
    """Depthwise and pointwise with a residual, then a strided one, odd sizes and dilation."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["h0"], pads=[2, 1, 2, 1], group=8, dilations=[2, 1]),
        helper.make_node("Relu", ["h0"], ["h1"]),
        helper.make_node("Conv", ["h1", "w1"], ["h2"]),
        helper.make_node("Add", ["h2", "h1"], ["h3"]),
        helper.make_node(
            "MaxPool", ["h3"], ["h4"], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]
        ),
        helper.make_node("Conv", ["h4", "w2"], ["y"], strides=[2, 2], pads=[1, 1, 0, 1]),
    ]
    weights = weight_of("w0", 8, 1, 3, 3), weight_of("w1", 8, 8, 1, 1), weight_of("w2", 6, 8, 3, 3)
    return model_of(nodes, (images, 8, 21, 11), (images, 6, 10, 6), *weights)


_MODELS = {
    "gemm": _gemm,
    "mlp": _mlp,
    "residual": _residual,
    "gated": _gated,
    "attention": _attention,
    "conv": _conv,
    "separable": _separable,
}
