"""Matrix products, in the form that suits the NPU.

    as_written    MatMul(x, w)
    swapped       Transpose(MatMul(Transpose(w), Transpose(x)))    the weight on the left
    by_columns    FusedMatMul(x, Transpose(w), transB)         the weight's columns are its rows
    convolution   Conv(x as [1, K, 1, M], w as [N, K, 1, 1])       the weight is a filter
    BlockCodes    MatMulNBits(x as [1, M, K], codes, scales)       the weight has 4 or 8 bits

All give the same numbers (but for the order of a sum). What is fastest depends on the NPU, on rows
and on depth; so a form is chosen operator by operator, by a function that is handed in. A product
of two activations, or of a batch, has one form only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relay_passes.constants import values_of
from relay_passes.npu_onnx.graph import MICROSOFT, OnnxGraph, Operand, emits, shape_of

ProductForm: TypeAlias = Literal["as_written", "swapped", "by_columns", "convolution"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BlockCodes:
    """A weight [K, N] as `com.microsoft.MatMulNBits` takes it, of four bits or of eight."""

    codes: np.ndarray  # [N, blocks, block * bits / 8] uint8, that of the lower k in the low half
    scales: np.ndarray  # [N, blocks], of the activation's element type
    # [N, ceil(blocks * bits / 8)] uint8, the first one low; None: the middle, 8 or 128
    zeros: np.ndarray | None
    bits: int = 4


ChooseForm: TypeAlias = Callable[[relax.Call], ProductForm | BlockCodes]


def as_written(_call: relax.Call) -> ProductForm:
    """The form for every product on an NPU of which nothing is known."""
    return "as_written"


def by_columns(_call: relax.Call) -> ProductForm:
    """The form where regions have their weights in common, on ONNX Runtime's own kernels.

    Some columns of a weight are then a block of its memory.
    """
    return "by_columns"


def htp_form(call: relax.Call) -> ProductForm:
    """The form for Qualcomm's NPUs.

    The HTP works on tiles of 32 rows, kept as [8, 4]. A matrix product of 24 or 32 rows does not
    fill them: its compiler estimates 1313 us for [32, 4096] x [4096, 4096] on Hexagon v73, where 64
    rows take 763 and the convolution with 32 pixels takes 757. Other heights gain nothing by it.
    """
    rows = _rows(call)
    return "convolution" if rows is not None and 16 < rows <= 32 and rows % 8 == 0 else "as_written"


def _rows(call: relax.Call) -> int | None:
    """M of [1, .., M, K] x constant [K, N]; None of any other product."""
    left, right = call.args
    shape = shape_of(left)
    plain = isinstance(right, GenericConst) and len(shape_of(right)) == 2 and len(shape) >= 2
    return shape[-2] if plain and math.prod(shape[:-2]) == 1 else None


@emits("relax.matmul")
def _matmul(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    form: ProductForm | BlockCodes
    form = "as_written" if _rows(call) is None else graph.product_form(call)
    if isinstance(form, BlockCodes):
        return _by_codes(graph, call, args, form)
    return _FORMS[form](graph, call, args)


def _as_written(graph: OnnxGraph, _call: relax.Call, args: list[Operand]) -> str:
    return graph.node("MatMul", *args)


def _swapped(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    weight = graph.constant(values_of(call.args[1]).T)  # [N, K]
    rank = len(shape_of(call))
    flip = [*range(rank - 2), rank - 1, rank - 2]
    left = graph.node("Transpose", args[0], perm=flip)  # [.., K, M]
    return graph.node("Transpose", graph.node("MatMul", weight, left), perm=flip)


def _by_columns(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    weight = graph.constant(values_of(call.args[1]).T)  # [N, K]
    return graph.node("FusedMatMul", args[0], weight, transB=1, domain=MICROSOFT)


def _convolution(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    weight = values_of(call.args[1])  # [K, N]
    depth, columns = weight.shape
    taps = graph.constant(np.ascontiguousarray(weight.T).reshape(columns, depth, 1, 1))
    pixels = graph.node("Reshape", args[0], graph.ints([1, 1, -1, depth]))  # [1, 1, M, K]
    first = graph.node("Conv", graph.node("Transpose", pixels, perm=[0, 3, 1, 2]), taps)
    last = graph.node("Transpose", first, perm=[0, 2, 3, 1])  # [1, 1, M, N]
    return graph.node("Reshape", last, graph.ints(shape_of(call)))


# Of MatMulNBits on ONNX Runtime's CPU: sums of float32. The default may round x to 8 bits.
_FLOAT32_SUMS = 1


def _by_codes(graph: OnnxGraph, call: relax.Call, args: list[Operand], weight: BlockCodes) -> str:
    columns, _, nbytes = weight.codes.shape
    shape = shape_of(call.args[0])
    x = args[0]
    if len(shape) != 3:  # Qualcomm's provider takes no other
        x = graph.node("Reshape", x, graph.ints([1, -1, shape[-1]]))
    parts = [weight.codes, weight.scales, *([] if weight.zeros is None else [weight.zeros])]
    result = graph.node(
        "MatMulNBits",
        x,
        *(graph.constant(part) for part in parts),
        K=shape[-1],
        N=columns,
        bits=weight.bits,
        block_size=nbytes * 8 // weight.bits,
        accuracy_level=_FLOAT32_SUMS,
        domain=MICROSOFT,
    )
    return result if len(shape) == 3 else graph.node("Reshape", result, graph.ints(shape_of(call)))


_FORMS: dict[ProductForm, Callable[[OnnxGraph, relax.Call, list[Operand]], str]] = {
    "as_written": _as_written,
    "swapped": _swapped,
    "by_columns": _by_columns,
    "convolution": _convolution,
}
