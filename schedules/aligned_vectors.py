"""Whole vectors of constants as one access: what a kernel reads by vectors becomes vectors.

    w: float*, vload4(0, w + 4 * i)        ->  w: float*, ((float4*)w)[i]

`vload` promises nothing about alignment, so a driver may split it into single loads; NVIDIA's does,
at four times the instructions. This is for buffers that carry the promise
(`relay_passes/align_arguments.py`), on devices whose work-items run in lockstep, where it matters.

Requires: device functions after vectorisation, flattening and host/device split.
Ensures:  a buffer of whose accesses one is not a whole, aligned vector stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
import tvm_ffi
from tvm import IRModule, ir, tirx
from tvm.ir.prim import expr as prim
from tvm.ir.transform import PassContext
from tvm.sym.analyzer import Analyzer

# A target's key, beside TVM's own, that says that work-items run in lockstep.
LOCKSTEP_KEY = "lockstep"
_LANES = (2, 4, 8, 16)  # the lengths of OpenCL C that a buffer can be an array of
_DTYPES = ("float32", "int32", "uint32")  # half is loaded by functions of its own
_BYTES = 128  # of the largest such type, long16; less is promised of no constant


@tvm.transform.module_pass(opt_level=0, name="AlignVectors")
class AlignVectors:
    """Rewrite kernels for devices that run work-items in lockstep."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """Other functions are returned as they are."""
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        for name, func in mod.functions.items():
            target = func.attrs.get("target") if isinstance(func, tirx.PrimFunc) else None
            if target is not None and LOCKSTEP_KEY in target.keys:
                result[name] = _rewrite(func)
        return result


def _rewrite(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` with vectors for the buffers that are only loaded by vectors."""
    lanes = uniform_lanes(func, lambda buffer: str(buffer.dtype) in _DTYPES)
    if not lanes:
        return func
    wide = {var: var.with_dtype(f"{var.dtype}x{n}") for var, n in lanes.items()}
    widths = {wide[var]: n for var, n in lanes.items()}

    def load(node: ir.TensorLoad) -> tirx.Expr:
        if node.source not in widths:
            return node
        return tirx.BufferLoad(node.source, [whole_vector(node.indices[0], widths[node.source])])

    return tvm_ffi.structural_map(
        func,
        [
            (tirx.Var, lambda var: wide.get(var, var)),
            (ir.TensorLoad, load),
        ],
    )


def uniform_lanes(
    func: tirx.PrimFunc, is_wanted: Callable[[tirx.Buffer], bool]
) -> dict[tirx.Var, int]:
    """Buffers with the promise that are only loaded as aligned vectors of one length, and it."""
    analyzer = Analyzer()
    # Indices that occur twice are variables by now.
    tvm_ffi.structural_walk(
        func.body, (tirx.Bind, lambda node: analyzer.bind(node.var, node.value))
    )
    found: dict[tirx.Var, set[int]] = {}

    def note(load: ir.TensorLoad) -> None:
        buffer = load.source
        is_promised = int(buffer.data_alignment) >= _BYTES and is_wanted(buffer)
        if buffer.scope() == "global" and is_promised:
            found.setdefault(buffer, set()).add(_aligned_lanes(analyzer, load.indices[0]))

    tvm_ffi.structural_walk(func.body, (ir.TensorLoad, note))
    return {
        buffer: next(iter(lanes))
        for buffer, lanes in found.items()
        if len(lanes) == 1 and lanes <= set(_LANES)
    }


def _aligned_lanes(analyzer: Analyzer, index: tirx.Expr) -> int:
    """The length of a contiguous vector that starts at a multiple of it; 1 for all else."""
    if not isinstance(index, prim.Ramp) or not isinstance(index.stride, prim.IntImm):
        return 1
    lanes = int(index.lanes)
    if int(index.stride) != 1 or int(analyzer.modular_set(index.base).coeff) % lanes:
        return 1
    # The remainder too: a base of 4 n + 2 has the coefficient 4.
    return 1 if int(analyzer.modular_set(index.base).base) % lanes else lanes


def whole_vector(index: prim.Ramp, lanes: int) -> tirx.Expr:
    """The number of the vector at `index`."""
    return Analyzer().simplify(index.base // lanes)
