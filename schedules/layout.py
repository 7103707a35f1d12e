"""How tensors lie: weight panels, index arithmetic, and what every legalisation needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import relax, te, tirx, topi
from tvm.ir import GenericConst, Op

from schedules.register_tile import round_up

# FuseOps may add element-wise consumers to a function of this pattern.
OUT_ELEMENTWISE_FUSABLE = 4
# As in `relay_passes.store_permuted`: a permutation may join a function of the second kind.
PERMUTES, STORES_ANYWHERE = "hetero.permutes", "hetero.stores_anywhere"
# Of a function around a `contraction`.
CONTRACTION_ATTRS = {"op_pattern": OUT_ELEMENTWISE_FUSABLE, STORES_ANYWHERE: True}
Legalize = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]


def pack_panels(weight: np.ndarray, panel: int) -> np.ndarray:
    """[.., K, N] -> [.., N' / panel, K, panel], zeros past the last column."""
    *leading, depth, columns = weight.shape
    padded = weight
    if columns % panel:
        padded = np.zeros((*leading, depth, round_up(columns, panel)), weight.dtype)
        padded[..., :columns] = weight
    strips = padded.reshape(*leading, depth, -1, panel)
    return np.ascontiguousarray(np.moveaxis(strips, -2, -3))


Panels = Callable[[GenericConst, int], relax.Expr]
"""(a constant weight, columns of a panel) -> its `pack_panels` as a constant."""


def panels_of(weight: GenericConst, panel: int) -> relax.Expr:
    """`Panels` that are made anew each time."""
    try:
        values = np.from_dlpack(weight.value)
    except (BufferError, RuntimeError, TypeError, ValueError):  # a type that numpy has not
        values = weight.value.numpy()
    return relax.const(pack_panels(values, panel))


def panel_tensor(tensor: te.Tensor, panel: int) -> te.Tensor:
    """`pack_panels` as a kernel, for a right side that is computed."""
    *leading, depth, columns = [int(n) for n in tensor.shape]
    strips = round_up(columns, panel) // panel

    def body(*index: tirx.Var) -> tirx.Expr:
        *place, strip, k, lane = index
        column = strip * panel + lane
        if columns % panel == 0:
            return tensor(*place, k, column)
        zero = tirx.const(0, tensor.dtype)
        return tirx.if_then_else(column < columns, tensor(*place, k, column), zero)

    return te.compute((*leading, strips, depth, panel), body, name="panels")


def static_shape(expr: relax.Expr) -> tuple[int, ...] | None:
    """The shape as integers; None where any of it is unknown at compile time."""
    shape = getattr(expr.ty, "shape", None)
    if shape is None or not all(isinstance(n, (int, tirx.IntImm)) for n in shape):
        return None
    return tuple(int(n) for n in shape)


def known_shape(expr: relax.Expr) -> tuple[int, ...]:
    """The shape of an expression whose shape was found to be known."""
    shape = static_shape(expr)
    assert shape is not None
    return shape


def default_legalize(op: str) -> Legalize:
    """TVM's own legalisation of `op`."""
    return Op.get(op).get_attr("FLegalize")


def legalize_permute_dims(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """`relax.permute_dims` to a function that says what it is."""
    (data,) = call.args
    ndim = int(call.ty.ndim)
    if call.attrs.axes is None:
        axes = list(range(ndim))[::-1]
    else:
        axes = [int(axis) % ndim for axis in call.attrs.axes]
    return builder.call_te(
        topi.transpose,
        data,
        axes,
        primfunc_name_hint="transpose",
        primfunc_attrs={PERMUTES: axes},
    )


def behind_permutations(
    builder: relax.BlockBuilder, expr: relax.Expr
) -> tuple[relax.Expr, list[int]]:
    """What `expr` is a permutation of, and by which axes: `expr` itself where it is none.

    Element `index` of `expr` is the element of the result whose axis `axes[n]` is `index[n]`.
    """
    axes = list(range(int(expr.ty.ndim)))
    call_tir = Op.get("relax.call_tir")
    while isinstance(expr, relax.Var):
        value = builder.lookup_binding(expr)
        if not isinstance(value, relax.Call) or value.op != call_tir:
            break
        func = builder.get()[value.args[0]]
        permuted = func.attrs.get(PERMUTES) if isinstance(func, tirx.PrimFunc) else None
        if permuted is None:
            break
        (expr,) = value.args[1].fields
        axes = [int(permuted[axis]) for axis in axes]
    return expr, axes


def accumulator_dtype(dtype: str) -> str:
    """Sums of half-precision products are kept in float32."""
    return "float32" if dtype == "float16" else dtype


def unravel(flat: tirx.Expr, shape: Sequence[int]) -> list[tirx.Expr]:
    """The index into `shape` of row-major position `flat`."""
    index: list[tirx.Expr] = []
    for position, extent in reversed(list(enumerate(shape))):
        index.append(flat % extent if position else flat)
        flat = flat // extent
    return index[::-1]


def ravel(index: Sequence[tirx.Expr], shape: Sequence[int]) -> tirx.Expr:
    """The row-major position of `index` in `shape`."""
    flat: tirx.Expr = tirx.const(0, "int32") if not index else index[0]
    for value, extent in zip(index[1:], shape[1:], strict=True):
        flat = flat * extent + value
    return flat


def broadcast_index(index: Sequence[tirx.Expr], shape: Sequence[int]) -> list[tirx.Expr]:
    """`index` cut to `shape`'s rank from the right, 0 on its axes of extent one."""
    tail = list(index)[len(index) - len(shape) :] if index else [0] * len(shape)
    return [0 if int(extent) == 1 else value for value, extent in zip(tail, shape, strict=True)]
