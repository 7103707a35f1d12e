"""`hetero.update_kv`: new keys or values go into the cache where it lies, at a run-time offset.

    cache[b, h, past + row] = rows[b, h, row]          where past + row lies inside the cache

The cache is allocated once for all of the context; nothing is concatenated and nothing moves.
"""

from __future__ import annotations

from tvm import relax, tirx
from tvm.script.ir_builder import tirx as T

from schedules.attention_spec import Spread, argument, kernel, put
from schedules.layout import Legalize
from target_specs.spec import GpuSpec

_ROWS_OF_A_CORE = 32  # that one work-item writes: a group of its own costs more than a row


def legalize_update_kv(gpu: GpuSpec) -> Legalize:
    """`hetero.update_kv(cache, rows, past)`, see `relay_passes/attention.py`."""

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        cache, rows, past = call.args
        held, new = ([int(dim) for dim in arg.ty.shape] for arg in (cache, rows))
        func = builder.add_func(update_kv_kernel(held, new, str(cache.ty.dtype), gpu), "update_kv")
        return relax.op.call_tir_inplace(func, [cache, rows, past], [0], [cache.ty])

    return legalize


def update_kv_kernel(held: list[int], new: list[int], dtype: str, gpu: GpuSpec) -> tirx.PrimFunc:
    """`(cache, rows, past)`; `held` and `new` are the shapes [batch, heads, positions, dim]."""
    batches, heads, rows, dim = new
    is_core = gpu.wave_size == 1
    taken = min(rows, _ROWS_OF_A_CORE) if is_core else 1
    items = 1 if is_core else min(gpu.wave_size, gpu.max_work_group_size, dim)
    with kernel("update_kv") as finish:
        cache = argument("cache", tuple(held), dtype)
        source = argument("rows", tuple(new), dtype)
        past = argument("past", (1,), "int32")
        with (
            T.launch_thread("blockIdx.z", batches) as batch,
            T.launch_thread("blockIdx.y", heads) as head,
            T.launch_thread("blockIdx.x", -(-rows // taken)) as block,
            T.launch_thread("threadIdx.x", items) as item,
            T.serial(0, taken) as step,
        ):
            row = block * taken + step
            at = T.bind(past[0] + row)
            spread = Spread(
                lanes=min(gpu.vector_width, 16) if is_core else 1, items=items, item=item
            )
            inside = at < held[2] if rows % taken == 0 else tirx.all(row < rows, at < held[2])
            with T.If(inside), T.Then(), spread.over(dim) as d:
                put(cache, [batch, head, at, d], source[batch, head, row, d])
    return finish()
