"""Conditions in a form that TVM's OpenCL code generator gets right in vectors.

    Select(c, a, b)       ->  if_then_else(c, a, b)
    Cast(t, c: bool)      ->  if_then_else(c, t(1), t(0))

OpenCL's vector `select` looks at the highest bit of each condition, and a true vector comparison is
-1. TVM writes 1 where the condition is a scalar spread over the lanes, so that `select` takes the
wrong side, and converts a comparison to a number as it is, which gives -1. An `if_then_else` is one
branch where all lanes agree, and is taken apart lane by lane where they do not.
"""

from __future__ import annotations

import tvm_ffi
from tvm import tirx
from tvm.ir.prim import expr as prim

_BOOL = "bool"


def scalar_conditions(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` without selects and without numbers made from comparisons."""
    return tvm_ffi.structural_map(func, [(prim.Select, _branch), (prim.Cast, _number)])


def is_bool(buffer: tirx.Buffer) -> bool:
    """Whether the buffer holds truth values, which cannot be stored as vectors."""
    return str(buffer.dtype) == _BOOL


def _branch(select: prim.Select) -> tirx.Expr:
    return tirx.if_then_else(select.condition, select.true_value, select.false_value)


def _number(cast: prim.Cast) -> tirx.Expr:
    if str(cast.value.ty) != _BOOL or str(cast.ty) == _BOOL:
        return cast
    dtype = str(cast.ty)
    return tirx.if_then_else(cast.value, tirx.const(1, dtype), tirx.const(0, dtype))
