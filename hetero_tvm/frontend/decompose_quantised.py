"""Integer operators in floating point.

`(q - zero)` is a small whole number, so products and sums of them are exact in float32 up to
2^24; only the final scaling rounds, as it does in ONNX Runtime.
"""

from __future__ import annotations

import numpy as np
import onnx

from hetero_tvm.frontend.emitter import Emitter
from hetero_tvm.frontend.node_view import NodeView
from hetero_tvm.frontend.shape_folding import Decomposition

_FLOAT = onnx.TensorProto.FLOAT


def _centred(node: NodeView, out: Emitter, index: int, zero_index: int, axis: int | None) -> str:
    """Input `index` less its zero point, as float32; a vector of zero points lies along `axis`."""
    value = out.op("Cast", node.input(index), to=_FLOAT)
    if not node.has(zero_index):
        return value
    known = node.const(zero_index)
    if known is not None and not np.any(known):
        return value
    zero = out.op("Cast", node.input(zero_index), to=_FLOAT)
    return out.op("Sub", value, _along(node, out, zero, zero_index, index, axis))


def _along(
    node: NodeView, out: Emitter, value: str, source: int, target: int, axis: int | None
) -> str:
    """A per-channel vector in a shape that broadcasts along `axis` of input `target`."""
    if axis is None or len(node.shape(source)) != 1 or node.shape(source)[0] == 1:
        return value
    shape = [1] * len(node.shape(target))
    shape[axis] = node.shape(source)[0]
    return out.reshape(value, shape)


def _requantise(node: NodeView, out: Emitter, value: str, scale: int, zero: int) -> str:
    """Round `value / scale + zero` half to even, saturate, cast to the zero point's type."""
    limits = np.iinfo(node.dtype(zero))
    scaled = out.op("Round", out.op("Div", value, node.input(scale)))
    shifted = out.op("Add", scaled, out.op("Cast", node.input(zero), to=_FLOAT))
    clipped = out.clip(shifted, float(limits.min), float(limits.max), "float32")
    to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(node.dtype(zero)))
    return out.op("Cast", clipped, to=to)


def _qlinear_matmul(node: NodeView, out: Emitter) -> bool:
    """Inputs: a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero."""
    if node.shape(1) not in ((), (1,)) or len(node.shape(4)) > 1 or node.dtype(1) != "float32":
        return False
    columns = len(node.shape(3)) - 1
    a, b = _centred(node, out, 0, 2, None), _centred(node, out, 3, 5, columns)
    product = out.op("MatMul", a, b)
    scale = out.op("Mul", node.input(1), node.input(4))
    out.output(_requantise(node, out, out.op("Mul", product, scale), 6, 7))
    return True


def _matmul_integer(node: NodeView, out: Emitter) -> bool:
    """Inputs: a, b, a_zero, b_zero."""
    rows = len(node.shape(0)) - 2 if node.has(2) and node.shape(2) not in ((), (1,)) else None
    a = _centred(node, out, 0, 2, rows)
    b = _centred(node, out, 1, 3, len(node.shape(1)) - 1)
    out.output(out.op("Cast", out.op("MatMul", a, b), to=onnx.TensorProto.INT32))
    return True


def _window(node: NodeView) -> dict[str, object]:
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    found = {name: node.attr(name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _conv_integer(node: NodeView, out: Emitter) -> bool:
    """Inputs: x, w, x_zero, w_zero."""
    x, w = _centred(node, out, 0, 2, None), _centred(node, out, 1, 3, 0)
    result = out.op("Conv", x, w, **_window(node))
    out.output(out.op("Cast", result, to=onnx.TensorProto.INT32))
    return True


def _qlinear_conv(node: NodeView, out: Emitter) -> bool:
    """Inputs: x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias in int32."""
    x, w = _centred(node, out, 0, 2, None), _centred(node, out, 3, 5, 0)
    inputs = [x, w]
    if node.has(8):
        inputs.append(out.op("Cast", node.input(8), to=_FLOAT))
    result = out.op("Conv", *inputs, **_window(node))
    scale = out.op("Mul", node.input(1), node.input(4))
    if len(node.shape(4)) == 1 and node.shape(4)[0] > 1:
        scale = out.reshape(scale, [1, node.shape(4)[0], *[1] * (len(node.shape(0)) - 2)])
    out.output(_requantise(node, out, out.op("Mul", result, scale), 6, 7))
    return True


QUANTISED_DECOMPOSITIONS: dict[tuple[str, str], Decomposition] = {
    ("", "QLinearMatMul"): _qlinear_matmul,
    ("", "MatMulInteger"): _matmul_integer,
    ("", "QLinearConv"): _qlinear_conv,
    ("", "ConvInteger"): _conv_integer,
}
