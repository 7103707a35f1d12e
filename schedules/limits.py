"""What a kernel may use of a device, and whether it uses no more: from the spec, and from drivers.

Equal limits make equal search spaces, and are part of a database's key.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from target_specs.spec import GpuSpec

_VECTORS = (1, 2, 4, 8, 16)  # lanes that OpenCL C has a type for, without 3
_MAX_LANES = 16
_MAX_COPIES = 512  # of a statement by unrolling; more makes drivers' compilers slow, or crash
# Sums of one work-item, and what it holds of a weight: a core keeps a block's in its second-level
# cache, 1024 floats of 32 columns and more; a work-item that shares a core with others has
# registers only.
_CORE_BYTES = 256 << 10
_ITEM_BYTES = 1 << 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a kernel may use, from a device's spec. Equal limits make equal search spaces."""

    items: int  # of one work-group
    local_bytes: int  # of one work-group
    private_bytes: int  # of one work-item
    lanes: int
    is_core: bool  # a work-item has a core to itself
    image_pixels: int = 0  # constants are read as images of up to so many; 0: as memory

    @property
    def text(self) -> str:
        """As part of a database key."""
        kind = "core" if self.is_core else "lockstep"
        images = f" images={self.image_pixels}" if self.image_pixels else ""
        return f"{kind} items={self.items} local={self.local_bytes} lanes={self.lanes}{images}"


def limits(gpu: GpuSpec) -> Limits:
    """The limits of a target."""
    is_core = gpu.wave_size == 1
    return Limits(
        items=gpu.max_work_group_size,
        local_bytes=gpu.local_memory_bytes,
        private_bytes=_CORE_BYTES if is_core else _ITEM_BYTES,
        lanes=min(gpu.vector_width if is_core else 4, _MAX_LANES),
        is_core=is_core,
        image_pixels=gpu.image_pixels or 0,
    )


_TO_BUFFERS = tvm.transform.Sequential(
    [
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.CompactBufferAllocation(),
    ]
)


def fits(sch: s_tir.Schedule, limit: Limits) -> bool:
    """Whether the device, and a driver's compiler, can take the kernel."""
    (func,) = (f for f in sch.mod.functions.values() if isinstance(f, tirx.PrimFunc))
    items: dict[str, int] = {}
    fine = [True]

    def loop(node: tirx.For) -> None:
        if node.thread_binding is not None:
            items[str(node.thread_binding.thread_tag)] = int(node.extent)
        elif node.kind == tirx.ForKind.VECTORIZED:
            fine.append(int(node.extent) in _VECTORS)

    tvm_ffi.structural_walk(func.body, (tirx.For, loop))
    group = math.prod(n for tag, n in items.items() if tag.startswith("threadIdx"))
    if not all(fine) or group > limit.items or _copies(func.body) > _MAX_COPIES:
        return False
    used = _memory_bytes(sch.mod)
    return used["local"] <= limit.private_bytes and used["shared"] <= limit.local_bytes


def _copies(node: Any) -> int:
    """How many statements unrolling makes of the one that is copied most."""
    if isinstance(node, tirx.For):
        factor = int(node.extent) if node.kind == tirx.ForKind.UNROLLED else 1
        return factor * _copies(node.body)
    if isinstance(node, tirx.SeqStmt):
        return max(_copies(part) for part in node.seq)
    if isinstance(node, s_tir.SBlockRealize):
        return _copies(node.block.body)
    return 1


def _memory_bytes(mod: tvm.IRModule) -> dict[str, int]:
    """Bytes by scope, as the kernel will be generated."""
    used = {"local": 0, "shared": 0}

    def block(node: s_tir.SBlock) -> None:
        for buffer in node.alloc_buffers:
            # Rows may be padded apart.
            strides = buffer.strides
            count = (
                int(buffer.shape[0]) * int(strides[0])
                if strides
                else math.prod(map(int, buffer.shape))
            )
            size = count * (tvm.DataType(buffer.dtype).bits // 8)
            used[buffer.scope()] = used.get(buffer.scope(), 0) + size

    for func in _TO_BUFFERS(mod).functions.values():
        tvm_ffi.structural_walk(func.body, (s_tir.SBlock, block))
    return used


@derived_object
class Fits(ms.postproc.PyPostproc):
    """`fits`, for MetaSchedule's search."""

    def __init__(self, limit: Limits) -> None:
        super().__init__()
        self.limit = limit

    def _initialize_with_tune_context(self, context: ms.TuneContext) -> None:
        """Nothing of the context is needed."""

    def apply(self, sch: s_tir.Schedule) -> bool:
        """False drops the candidate."""
        return fits(sch, self.limit)

    def clone(self) -> Any:
        """Another one, for another context."""
        return Fits(self.limit)
