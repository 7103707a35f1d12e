"""How the emulator runs operators that never go to an NPU: programs have them between others.

Each entry is an ONNX form that ONNX Runtime's CPU provider computes in float32, so that what they
make of a neighbour's float16 is seen: a remainder, a step of a quantisation or the nearest pixel
turn a last bit into another number.
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from relay_passes.npu_onnx.graph import (
    EMITTERS,
    Emitter,
    OnnxGraph,
    Operand,
    dtype_of,
    element_type,
    int_list,
    shape_of,
)
from relay_passes.op_work import op_name, tensor_args

# Of all that these read: what ONNX Runtime's CPU provider has kernels for.
_TAKES = frozenset(("float32", "bool", "int8", "uint8"))
_SAME = {
    **{f"relax.{name}": name.capitalize() for name in "round sign sin cos tan".split()},
    **{f"relax.{name}": name.capitalize() for name in "sinh cosh asin acos atan".split()},
    **{f"relax.{name}": name.capitalize() for name in "asinh acosh atanh".split()},
    "relax.isnan": "IsNaN",
    "relax.isinf": "IsInf",
    "relax.logical_xor": "Xor",
}
_MODES = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}


def emulated(call: relax.Call) -> bool:
    """Has this call a form, here or as an NPU's operator?"""
    name = op_name(call)
    if name in EMITTERS:
        return True
    return name in EMULATED and all(dtype_of(arg) in _TAKES for arg in tensor_args(call))


def _same(op: str) -> Emitter:
    def emit(graph: OnnxGraph, _call: relax.Call, args: list[Operand]) -> str:
        return graph.node(op, *args)

    return emit


def _mod(graph: OnnxGraph, _call: relax.Call, args: list[Operand]) -> str:
    return graph.node("Mod", *args, fmod=1)


def _along(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> tuple[str, str]:
    """Scale and zero point in float32, in a shape that meets the quantised axis."""
    rank, axis = len(shape_of(call.args[0])), int(call.attrs.axis)
    shapes = [shape_of(arg) for arg in call.args[1:]]
    made = [args[1], graph.node("Cast", args[2], to=element_type("float32"))]
    for place, shape in enumerate(shapes):
        if shape and shape != (1,):
            wide = [1] * rank
            wide[axis] = shape[0]
            made[place] = graph.node("Reshape", made[place], graph.ints(wide))
        elif shape:
            made[place] = graph.node("Reshape", made[place], graph.ints([]))
    return made[0], made[1]


def _quantize(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    scale, zero = _along(graph, call, args)
    limits = np.iinfo(dtype_of(call))
    step = graph.node("Round", graph.node("Div", args[0], scale))
    low, high = (graph.scalar(float(limit), "float32") for limit in (limits.min, limits.max))
    bounded = graph.node("Clip", graph.node("Add", step, zero), low, high)
    return graph.node("Cast", bounded, to=element_type(dtype_of(call)))


def _dequantize(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    scale, zero = _along(graph, call, args)
    step = graph.node("Cast", args[0], to=element_type("float32"))
    return graph.node("Mul", graph.node("Sub", step, zero), scale)


def _grid_sample(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    rank = len(shape_of(call.args[0]))
    grid = graph.node("Transpose", args[1], perm=[0, *range(2, rank), 1])
    attrs = call.attrs
    return graph.node(
        "GridSample",
        args[0],
        grid,
        mode=_MODES[str(attrs.method)],
        padding_mode=str(attrs.padding_mode),
        align_corners=int(attrs.align_corners),
    )


def _prod(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    axes = call.attrs.axis
    over = [] if axes is None else [graph.ints(int_list(axes))]
    return graph.node("ReduceProd", args[0], *over, keepdims=int(call.attrs.keepdims))


EMULATED: dict[str, Emitter] = {
    **{name: _same(op) for name, op in _SAME.items()},
    "relax.mod": _mod,
    "relax.quantize": _quantize,
    "relax.dequantize": _dequantize,
    "relax.image.grid_sample": _grid_sample,
    "relax.prod": _prod,
}
"""Relax operator name -> what writes it; none of them is an NPU's."""
