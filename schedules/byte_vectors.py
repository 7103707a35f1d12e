"""Kernels on 8-bit numbers compute element by element.

TVM's OpenCL code generator packs the lanes of an 8-bit vector that it gathers into one `int`, as
CUDA wants it, and then uses that number as a vector: every lane gets the lowest byte. Contiguous
vectors are right, but whether one is contiguous shows only after lowering; so loops stay loops, and
the driver's compiler makes vectors of them where it can.
"""

from __future__ import annotations

import tvm_ffi
from tvm import s_tir, tirx

_BYTES = ("int8", "uint8")


def without_byte_vectors(schedule: s_tir.Schedule) -> s_tir.Schedule:
    """`schedule`, with plain loops for vectors where its function touches 8-bit numbers."""
    func = schedule.mod["main"]
    if not touches_bytes(func):
        return schedule
    return s_tir.Schedule(tvm_ffi.structural_map(func, [(tirx.For, _as_loop)]))


def touches_bytes(func: tirx.PrimFunc) -> bool:
    """Whether `func` reads or writes 8-bit numbers."""
    return any(str(buffer.dtype) in _BYTES for buffer in _buffers(func))


def _as_loop(loop: tirx.For) -> tirx.For:
    if loop.kind != tirx.ForKind.VECTORIZED:
        return loop
    return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)


def _buffers(func: tirx.PrimFunc) -> list[tirx.Buffer]:
    found: list[tirx.Buffer] = []

    def visit(block: s_tir.SBlock) -> None:
        found.extend(region.source for region in (*block.reads, *block.writes))

    tvm_ffi.structural_walk(func.body, (s_tir.SBlock, visit))
    return found
