"""float16 as a storage format only, for devices without half arithmetic.

    x: half*, i: index       float32(x[i])        ->  vload_half(0, x + i)
                             x[i] = float16(v)    ->  vstore_half(v, 0, x + i)

`vload_halfN` and `vstore_halfN` are core OpenCL C: they work where `cl_khr_fp16` is missing, and
where it is there, arithmetic stays in float32, which is what sums need anyway. Values that a
kernel keeps in registers become float32 too, so no `half` variable is left in the source.

Requires: device functions after vectorisation, flattening and host/device split.
Ensures:  no expression of type float16 in them but addresses of `half` buffers in global memory.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import IRModule, ir, tirx
from tvm.ir.prim import expr as prim
from tvm.ir.transform import PassContext
from tvm.tirx.buffer import BufferType

_HALF = "float16"
_WIDE = "float32"
_VECTOR_LANES = (2, 3, 4, 8, 16)  # the lengths that OpenCL C has
_BINARY = (
    *(prim.Add, prim.Sub, prim.Mul, prim.Div, prim.Mod, prim.Min, prim.Max),
    *(prim.EQ, prim.NE, prim.LT, prim.LE, prim.GT, prim.GE),
)


@tvm.transform.module_pass(opt_level=0, name="StoreHalf")
class StoreHalf:
    """Rewrite OpenCL kernels so that float16 exists only in memory."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """Functions for the CPU, and kernels without float16, are returned as they are."""
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        for name, func in mod.functions.items():
            target = func.attrs.get("target") if isinstance(func, tirx.PrimFunc) else None
            if target is not None and target.kind.name == "opencl" and _is_kernel(func):
                result[name] = _Widen().rewrite(func)
        return result


def _is_kernel(func: tirx.PrimFunc) -> bool:
    return "tirx.kernel_launch_params" in func.attrs


class _Widen:
    """Float32 in place of float16 for one kernel; children are rewritten before their parents."""

    def __init__(self) -> None:
        self.variables: dict[tirx.Var, tirx.Var] = {}

    def rewrite(self, func: tirx.PrimFunc) -> tirx.PrimFunc:
        """The kernel with float16 only behind `vload_half` and `vstore_half`."""
        return tvm_ffi.structural_map(
            func,
            [
                (tirx.Var, self._variable),
                (ir.TensorLoad, self._load),
                (tirx.BufferStore, self._store),
                (prim.Cast, _cast),
                (prim.FloatImm, _literal),
                (prim.Broadcast, _broadcast),
                (_BINARY, lambda node: type(node)(node.a, node.b)),
                (prim.Select, _select),
                (ir.Call, _call),
            ],
        )

    def _variable(self, var: tirx.Var) -> tirx.Var:
        """Registers, local memory and scalars become float32; global buffers keep their type."""
        if var in self.variables:
            return self.variables[var]
        wide: Any = None
        if isinstance(var.ty, BufferType):
            if var.scope() != "global" and _is_half(var.dtype):
                wide = var.with_dtype(_widened(var.dtype))
        elif isinstance(var.ty, ir.PrimType) and _is_half(var.ty):
            wide = tirx.Var(var.name, _widened(var.ty))
        if wide is None:
            return var
        self.variables[var] = wide
        return wide

    def _load(self, load: ir.TensorLoad) -> tirx.Expr:
        buffer = load.source
        if not _is_half(buffer.dtype):
            return tirx.BufferLoad(buffer, load.indices)
        (index,) = load.indices
        if isinstance(index, prim.Broadcast):
            return _vector_literal([_load_scalar(buffer, index.value)], int(index.lanes))
        lanes = _lanes(index)
        if lanes == 1:
            return _load_scalar(buffer, index)
        if _is_contiguous(index) and lanes in _VECTOR_LANES:
            return _load_vector(buffer, index.base, lanes)
        parts = [_load_scalar(buffer, _lane(index, lane)) for lane in range(lanes)]
        return _vector_literal(parts, lanes)

    def _store(self, store: tirx.BufferStore) -> tirx.Stmt:
        buffer, value = store.buffer, store.value
        if not _is_half(buffer.dtype):
            return tirx.BufferStore(buffer, value, store.indices)
        (index,) = store.indices
        lanes = _lanes(index)
        if lanes == 1:
            return _store_call("vstore_half", value, buffer, index)
        if _is_contiguous(index) and lanes in _VECTOR_LANES:
            return _store_call(f"vstore_half{lanes}", value, buffer, index.base)
        parts = [tirx.Shuffle([value], [lane]) for lane in range(lanes)]
        return tirx.SeqStmt(
            [
                _store_call("vstore_half", part, buffer, _lane(index, lane))
                for lane, part in enumerate(parts)
            ]
        )


def _vector_literal(parts: list[tirx.Expr], lanes: int) -> tirx.Expr:
    """`(floatN)(a, b, ..)`; one part fills all lanes.

    TVM prints a shuffle as a C++ constructor, and repeats a broadcast's operand for every lane,
    which would convert the same half sixteen times.
    """
    return tirx.call_pure_extern(f"{_WIDE}x{lanes}", f"(float{lanes})", *parts)


def _broadcast(node: prim.Broadcast) -> tirx.Expr:
    lanes = int(node.lanes)
    if isinstance(node.value, ir.Call) and str(node.value.ty) == _WIDE and lanes in _VECTOR_LANES:
        return _vector_literal([node.value], lanes)
    return prim.Broadcast(node.value, node.lanes)


def _address(buffer: tirx.Buffer, index: tirx.Expr) -> tirx.Expr:
    return tirx.address_of(tirx.BufferLoad(buffer, [index]))


def _load_scalar(buffer: tirx.Buffer, index: tirx.Expr) -> tirx.Expr:
    return tirx.call_pure_extern(_WIDE, "vload_half", 0, _address(buffer, index))


def _load_vector(buffer: tirx.Buffer, base: tirx.Expr, lanes: int) -> tirx.Expr:
    name = f"vload_half{lanes}"
    return tirx.call_pure_extern(f"{_WIDE}x{lanes}", name, 0, _address(buffer, base))


def _store_call(name: str, value: tirx.Expr, buffer: tirx.Buffer, index: tirx.Expr) -> tirx.Stmt:
    return tirx.Evaluate(tirx.call_extern("int32", name, value, 0, _address(buffer, index)))


def _lane(index: tirx.Expr, lane: int) -> tirx.Expr:
    """Element `lane` of a vector of indices."""
    if isinstance(index, prim.Ramp):
        return index.base + index.stride * lane
    return tirx.Shuffle([index], [lane])


def _is_contiguous(index: tirx.Expr) -> bool:
    return (
        isinstance(index, prim.Ramp)
        and isinstance(index.stride, prim.IntImm)
        and int(index.stride) == 1
    )


def _lanes(expr: tirx.Expr) -> int:
    _, _, lanes = str(expr.ty.dtype if hasattr(expr.ty, "dtype") else expr.ty).partition("x")
    return int(lanes) if lanes else 1


def _is_half(dtype: Any) -> bool:
    return str(dtype).split("x")[0] == _HALF


def _widened(dtype: Any) -> str:
    return str(dtype).replace(_HALF, _WIDE)


def _cast(cast: prim.Cast) -> tirx.Expr:
    """A cast to float16 keeps the wider value; a cast from it has nothing left to widen."""
    wanted = _widened(cast.ty) if _is_half(cast.ty) else str(cast.ty)
    return cast.value if str(cast.value.ty) == wanted else prim.Cast(wanted, cast.value)


def _literal(value: prim.FloatImm) -> tirx.Expr:
    return prim.FloatImm(_WIDE, value.value) if _is_half(value.ty) else value


def _select(select: prim.Select) -> tirx.Expr:
    return prim.Select(select.condition, select.true_value, select.false_value)


def _call(call: ir.Call) -> tirx.Expr:
    """Intrinsics follow their operands' type."""
    if not isinstance(call.ty, ir.PrimType) or not _is_half(call.ty):
        return call
    return ir.Call(call.op, call.args, call.attrs, call.ty_args, ret_ty=_widened(call.ty))
