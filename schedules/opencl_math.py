"""Functions of OpenCL C by their own names, where TVM would write those of C.

    atan(x)  ->  call_pure_extern("atan", x)

TVM names functions that it has no rule for as C's library does for floats, `atanf`, which no OpenCL
compiler knows. OpenCL C overloads one name for every type and vector.
"""

from __future__ import annotations

import tvm_ffi
from tvm import ir, tirx

_NAMES = ("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cosh", "sinh", "tan")
_BY_OPERATOR = {f"tirx.{name}": name for name in _NAMES}


def opencl_math(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` with these functions under OpenCL's names."""
    return tvm_ffi.structural_map(func, [(ir.Call, _renamed)])


def _renamed(call: ir.Call) -> tirx.Expr:
    name = _BY_OPERATOR.get(getattr(call.op, "name", ""))
    return call if name is None else tirx.call_pure_extern(str(call.ty), name, *call.args)
