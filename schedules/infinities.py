"""A maximum begins at minus infinity.

TVM begins it at the lowest finite number, so that the maximum of a row that is all -inf, as masks
make them, is not -inf. The same holds for a minimum and the highest finite number. Across a
group, TVM's beginning stays until the reduction is lowered, which knows no other; from then on it
is what a register is set to first.
"""

from __future__ import annotations

import numpy as np
import tvm
import tvm_ffi
from tvm import IRModule, s_tir, tirx
from tvm.ir.transform import PassContext

_HIGHEST = {name: float(np.finfo(name).max) for name in ("float16", "float32", "float64")}


def infinite_identities(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func`, whose reductions over floats begin at infinities in place of finite extremes."""
    return tvm_ffi.structural_map(func, [(s_tir.SBlock, _block)])


@tvm.transform.module_pass(opt_level=0, name="InfiniteStarts")
class InfiniteStarts:
    """Set registers of OpenCL kernels to infinities in place of finite extremes.

    Requires: device functions after the lowering of reductions across work-items.
    """

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """What a kernel stores elsewhere, or computes with such a number, stays."""
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        for name, func in mod.functions.items():
            target = func.attrs.get("target") if isinstance(func, tirx.PrimFunc) else None
            if target is not None and target.kind.name == "opencl":
                result[name] = tvm_ffi.structural_map(func, [(tirx.BufferStore, _start)])
        return result


def _start(store: tirx.BufferStore) -> tirx.BufferStore:
    if store.buffer.scope() != "local" or not isinstance(store.value, tirx.FloatImm):
        return store
    return tirx.BufferStore(store.buffer, _infinite(store.value), store.indices)


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
