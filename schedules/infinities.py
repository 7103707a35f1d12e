"""A maximum begins at minus infinity.

TVM begins it at the lowest finite number, so that the maximum of a row that is all -inf, as masks
make them, is not -inf. The same holds for a minimum and the highest finite number. Reductions
across work-items keep TVM's beginning, which is all that its lowering knows.
"""

from __future__ import annotations

import numpy as np
import tvm_ffi
from tvm import s_tir, tirx

_HIGHEST = {name: float(np.finfo(name).max) for name in ("float16", "float32", "float64")}


def infinite_identities(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func`, whose reductions over floats begin at infinities in place of finite extremes."""
    return tvm_ffi.structural_map(func, [(s_tir.SBlock, _block)])


def _block(block: s_tir.SBlock) -> s_tir.SBlock:
    if block.init is None:
        return block
    init = tvm_ffi.structural_map(block.init, [(tirx.FloatImm, _infinite)])
    return s_tir.SBlock(
        block.iter_vars,
        block.reads,
        block.writes,
        block.name_hint,
        block.body,
        init,
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )


def _infinite(number: tirx.FloatImm) -> tirx.FloatImm:
    dtype, value = str(number.ty), float(number.value)
    if abs(value) != _HIGHEST.get(dtype):
        return number
    return tirx.const(float("inf") if value > 0 else float("-inf"), dtype)
