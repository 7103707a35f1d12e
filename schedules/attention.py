"""`hetero.attention` as OpenCL kernels: a tiled prefill, or a decode step cut into pieces.

    rows > 1     attention_prefill(q, k_cache, v_cache, past)      -> out
    rows = 1     attention_decode(q, k_cache, v_cache, past)       -> sums, stats of the pieces
                 attention_combine(sums, stats)                    -> out

`past` is an int32 tensor of one value in the memory that the devices share, and no argument of the
function: so all shapes stay static, as the planning of memory wants them, one compiled function
serves every step, and whoever drives it writes four bytes between steps. How many work-groups there
are is fixed at build time; how many keys each of them reads follows from `past`, so a step costs
what its context costs, not what the cache has room for.

Nothing reads a position of the cache past the newest one that a query sees.
"""

from __future__ import annotations

from tvm import relax, tirx
from tvm.script.ir_builder import tirx as T

from schedules.attention_core import DECODE_KEYS, core_tile
from schedules.attention_space import Written, build
from schedules.attention_spec import (
    LOWEST,
    Attention,
    Spread,
    argument,
    kernel,
    lane_loop,
    lanes_of,
    local,
    put,
)
from schedules.attention_wave import wave_tile
from schedules.layout import Legalize
from target_specs.spec import GpuSpec

# Work-items, or groups of them, that a decode step is cut into, so that every core has some. Twice
# as many groups are hardly faster on a GPU of 132 cores, and 96 half as fast.
_CORE_ITEMS = 16
_WAVE_GROUPS = 256
_PIECES_MAX = 32
_LEAST_PIECE = 32  # keys
_MOST_LANES = 16


def legalize_attention(gpu: GpuSpec) -> Legalize:
    """`hetero.attention(q, k_cache, v_cache, past)`, see `relay_passes/attention.py`."""

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        return emit_attention(builder, attention_of(call), gpu, list(call.args))

    return legalize


def attention_of(call: relax.Call) -> Attention:
    """What a call of `hetero.attention` computes."""
    (batch, q_heads, rows, head_dim), (_, kv_heads, max_context, _), (*_, value_dim) = (
        [int(dim) for dim in arg.ty.shape] for arg in call.args[:3]
    )
    return Attention(
        batch=batch,
        rows=rows,
        q_heads=q_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        max_context=max_context,
        dtype=str(call.ty.dtype),
        scale=float(call.attrs["scale"]),
        window=int(call.attrs["window"]),
        softcap=float(call.attrs["softcap"]),
    )


def emit_attention(
    builder: relax.BlockBuilder, attention: Attention, gpu: GpuSpec, args: list[relax.Expr]
) -> relax.Expr:
    """A call that computes the result; calls before it are emitted."""
    out = relax.TensorType(attention.out_shape, attention.dtype)
    if attention.rows > 1:
        prefill = builder.add_func(prefill_kernel(attention, gpu), "attention_prefill")
        return relax.call_tir(prefill, args, out)
    shapes = attention.piece_shapes(pieces_of(attention, gpu))
    parts = [relax.TensorType(shape, "float32") for shape in shapes]
    decode = builder.add_func(decode_kernel(attention, gpu), "attention_decode")
    both = builder.emit(relax.call_tir(decode, args, parts))
    sums, stats = (builder.emit(relax.TupleGetItem(both, n)) for n in range(2))
    combine = builder.add_func(combine_kernel(attention, gpu), "attention_combine")
    return relax.call_tir(combine, [sums, stats], out)


def pieces_of(attention: Attention, gpu: GpuSpec) -> int:
    """How many pieces a decode step cuts the context into."""
    heads = attention.batch * attention.kv_heads
    wanted = -(-(_CORE_ITEMS if gpu.wave_size == 1 else _WAVE_GROUPS) // heads)
    return max(1, min(_PIECES_MAX, wanted, -(-attention.max_context // _LEAST_PIECE)))


def prefill_kernel(attention: Attention, gpu: GpuSpec) -> tirx.PrimFunc:
    """`(q, k_cache, v_cache, past, out)` for any number of rows."""
    return _written(attention, gpu, pieces=0)


def decode_kernel(attention: Attention, gpu: GpuSpec) -> tirx.PrimFunc:
    """`(q, k_cache, v_cache, past, sums, stats)` for one row."""
    return _written(attention, gpu, pieces=pieces_of(attention, gpu))


def _written(attention: Attention, gpu: GpuSpec, pieces: int) -> tirx.PrimFunc:
    """The kernel with the tile that suits the device."""
    is_core, step = gpu.wave_size == 1, DECODE_KEYS
    if not is_core:
        group = wave_tile(attention, gpu)
        tile, step = {"rows": group.rows, "columns": group.columns, "keys": group.keys}, group.keys
    elif pieces:
        tile = {"lanes": min(gpu.vector_width, _MOST_LANES)}
    else:
        core = core_tile(attention, gpu.vector_width)
        tile = {"lanes": core.lanes, "vectors": core.vectors, "keys": core.keys}
    written = Written(attention=attention, pieces=pieces, step=step if pieces else 0, tile=tile)
    return build(written, core=is_core)


def combine_kernel(attention: Attention, gpu: GpuSpec) -> tirx.PrimFunc:
    """`(sums, stats, out)`: the pieces of a decode step, weighted and added up."""
    a, pieces = attention, pieces_of(attention, gpu)
    lanes = lanes_of(a.value_dim, min(gpu.vector_width, _MOST_LANES if gpu.wave_size == 1 else 4))
    chunks = a.value_dim // lanes
    items = 1 if gpu.wave_size == 1 else min(chunks, gpu.max_work_group_size)
    sums_shape, stats_shape = a.piece_shapes(pieces)
    with kernel("attention_combine") as finish:
        sums = argument("sums", sums_shape, "float32")
        stats = argument("stats", stats_shape, "float32")
        out = argument("out", a.out_shape, a.dtype)
        with (
            T.launch_thread("blockIdx.y", a.batch) as batch,
            T.launch_thread("blockIdx.x", a.q_heads) as head,
            T.launch_thread("threadIdx.x", items) as item,
        ):
            weight, total = local("weight", (pieces,)), local("total", (lanes,))
            highest, power = local("highest", (1,)), local("power", (1,))
            put(highest, [0], T.float32(LOWEST))
            put(power, [0], T.float32(0))
            with T.serial(0, pieces) as p:
                put(highest, [0], tirx.max(highest[0], stats[batch, head, p, 0]))
            with T.serial(0, pieces) as p:
                put(weight, [p], T.exp(stats[batch, head, p, 0] - highest[0]))
                put(power, [0], power[0] + weight[p] * stats[batch, head, p, 1])
            with Spread(items=items, item=item).over(chunks) as chunk:
                with lane_loop(lanes) as n:
                    put(total, [n], T.float32(0))
                with T.serial(0, pieces) as p, lane_loop(lanes) as n:
                    more = weight[p] * sums[batch, head, p, chunk * lanes + n]
                    put(total, [n], total[n] + more)
                with lane_loop(lanes) as n:
                    at = head * a.value_dim + chunk * lanes + n
                    put(out, [batch, 0, at], (total[n] / power[0]).astype(a.dtype))
    return finish()
