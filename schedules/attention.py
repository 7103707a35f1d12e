"""`hetero.attention` as OpenCL kernels: a tiled prefill, or a decode step cut into pieces.

    rows > 1     attention_prefill(q, k_cache, v_cache, past)      -> out
    rows = 1     attention_decode(q, k_cache, v_cache, past)       -> sums, stats of the pieces
                 attention_combine(sums, stats)                    -> out
           or    attention_step(q, k_cache, v_cache, past)         -> out, scratch

`past` is an int32 tensor of one value in the memory that the devices share, and no argument of the
function: so all shapes stay static, as the planning of memory wants them, one compiled function
serves every step, and whoever drives it writes four bytes between steps. How many work-groups there
are is fixed at build time; how many keys each of them reads follows from `past`, so a step costs
what its context costs, not what the cache has room for.

A step is one function, which has both kernels, where a build uses a tuned one, whose number of
pieces is its own.

Nothing reads a position of the cache past the newest one that a query sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm import relax, tirx

from schedules.attention_core import DECODE_KEYS, core_tile
from schedules.attention_space import PIECES, Written, build, room
from schedules.attention_spec import Attention
from schedules.attention_step import combine
from schedules.attention_wave import wave_tile
from schedules.layout import Legalize
from schedules.limits import limits
from target_specs.spec import GpuSpec

# Work-items, or groups of them, that a decode step is cut into, so that every core has some. Twice
# as many groups are hardly faster on a GPU of 132 cores, and 96 half as fast.
_CORE_ITEMS = 16
_WAVE_GROUPS = 256
_PIECES_MAX = 32

InOne = Callable[[Attention], bool]  # decode steps that are one function


def never(_attention: Attention) -> bool:
    """No decode step is one function."""
    return False


def legalize_attention(gpu: GpuSpec, in_one: InOne = never) -> Legalize:
    """`hetero.attention(q, k_cache, v_cache, past)`, see `relay_passes/attention.py`."""

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        return emit_attention(builder, attention_of(call), gpu, list(call.args), in_one)

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
        first=int(call.attrs["first"]),
    )


def emit_attention(
    builder: relax.BlockBuilder,
    attention: Attention,
    gpu: GpuSpec,
    args: list[relax.Expr],
    in_one: InOne = never,
) -> relax.Expr:
    """A call that computes the result; calls before it are emitted."""
    out = relax.TensorType(attention.out_shape, attention.dtype)
    if attention.rows > 1:
        prefill = builder.add_func(prefill_kernel(attention, gpu), "attention_prefill")
        return relax.call_tir(prefill, args, out)
    if in_one(attention):
        step = builder.add_func(step_kernel(attention, gpu), "attention_step")
        parts = _types(attention, room(attention))
        both = builder.emit(relax.call_tir(step, args, [out, *parts]))
        return relax.TupleGetItem(both, 0)
    parts = _types(attention, pieces_of(attention, gpu))
    decode = builder.add_func(decode_kernel(attention, gpu), "attention_decode")
    both = builder.emit(relax.call_tir(decode, args, parts))
    sums, stats = (builder.emit(relax.TupleGetItem(both, n)) for n in range(2))
    combine = builder.add_func(combine_kernel(attention, gpu), "attention_combine")
    return relax.call_tir(combine, [sums, stats], out)


def _types(attention: Attention, pieces: int) -> list[relax.TensorType]:
    """Of what `pieces` pieces give."""
    return [relax.TensorType(shape, "float32") for shape in attention.piece_shapes(pieces)]


def pieces_of(attention: Attention, gpu: GpuSpec) -> int:
    """How many pieces a decode step cuts the context into."""
    heads = attention.batch * attention.kv_heads
    wanted = -(-(_CORE_ITEMS if gpu.wave_size == 1 else _WAVE_GROUPS) // heads)
    return min(_PIECES_MAX, wanted, room(attention))


def prefill_kernel(attention: Attention, gpu: GpuSpec) -> tirx.PrimFunc:
    """`(q, k_cache, v_cache, past, out)` for several rows."""
    return _written(attention, gpu, pieces=0, tile=_tile(attention, gpu))


def decode_kernel(attention: Attention, gpu: GpuSpec) -> tirx.PrimFunc:
    """`(q, k_cache, v_cache, past, sums, stats)` for one row."""
    tile = _tile(attention, gpu)
    return _written(attention, gpu, pieces=pieces_of(attention, gpu), tile=tile)


def step_kernel(attention: Attention, gpu: GpuSpec) -> tirx.PrimFunc:
    """`(q, k_cache, v_cache, past, out, sums, stats)` for one row: a decode step as it is tuned."""
    tile = {**_tile(attention, gpu), PIECES: pieces_of(attention, gpu)}
    return _written(attention, gpu, pieces=0, tile=tile)


def combine_kernel(attention: Attention, gpu: GpuSpec) -> tirx.PrimFunc:
    """`(sums, stats, out)`: the pieces of a decode step, weighted and added up."""
    pieces, limit = pieces_of(attention, gpu), limits(gpu)
    return combine(attention, pieces, limit.lanes, 1 if limit.is_core else limit.items)


def _tile(attention: Attention, gpu: GpuSpec) -> dict[str, int]:
    """What suits the device."""
    if gpu.wave_size != 1:
        group = wave_tile(attention, gpu)
        return {"rows": group.rows, "columns": group.columns, "keys": group.keys}
    if attention.rows == 1:
        return {"lanes": limits(gpu).lanes}
    core = core_tile(attention, gpu.vector_width)
    return {"lanes": core.lanes, "vectors": core.vectors, "keys": core.keys}


def _written(
    attention: Attention, gpu: GpuSpec, pieces: int, tile: Mapping[str, int]
) -> tirx.PrimFunc:
    step = tile.get("keys", DECODE_KEYS) if pieces else 0
    written = Written(attention=attention, pieces=pieces, step=step, tile=tile)
    return build(written, limits(gpu))
