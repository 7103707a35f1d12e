"""Operators of language models as simpler nodes: grouped-query attention, look-ups in 4 or 8 bits.

`GroupQueryAttention` becomes rotary embedding written out, two `UpdateKv` and one
`CachedAttention` (`own_nodes.py`). The positions before the new ones are the graph's input
`PAST`, and the new ones' own are `PLACES`; `llm_import` adds both, and that they are there tells a
language model's step from a model imported as any other.

`sliding_window_cache` says that a caller's buffers hold no more than the window. Ours hold the
whole sequence, and the operator's window picks the same rows of them: it changes nothing here.

ONNX Runtime's operator also takes lengths of its own (`seqlens_k`, `total_sequence_length`); with
one sequence that is not padded on the left they say what `PAST` says, and are dropped.
"""

from __future__ import annotations

import math

import numpy as np

from hetero_tvm.errors import UnsupportedModel
from hetero_tvm.frontend.contrib_ops import MICROSOFT, unpack_bits
from hetero_tvm.frontend.emitter import Emitter
from hetero_tvm.frontend.node_view import NodeView
from hetero_tvm.frontend.own_nodes import OWN_DOMAIN
from hetero_tvm.frontend.shape_folding import Decomposition

PAST = "hetero_past"  # int32 [1]: positions in the cache before the new ones
PLACES = "hetero_places"  # int64 [S]: positions of the new ones, all of them inside the cache

# Inputs of GroupQueryAttention.
_QUERY, _KEY, _VALUE, _PAST_KEY, _PAST_VALUE = range(5)
_COS, _SIN, _POSITIONS = 7, 8, 9
_UNSUPPORTED_INPUTS = {
    10: "attention_bias",
    11: "head_sink",
    12: "k_scale",
    13: "v_scale",
    14: "q_norm_weight",
    15: "k_norm_weight",
}
_PLAIN_ATTRIBUTES = {
    "rotary_interleaved": 0,
    "smooth_softmax": 0,
    "qk_output": 0,
    "causal": 1,
    "k_quant_type": "NONE",
    "v_quant_type": "NONE",
}


def _group_query_attention(node: NodeView, out: Emitter) -> bool:
    if PAST not in node.types:
        return False
    for name, plain in _PLAIN_ATTRIBUTES.items():
        if node.attr(name, plain) not in (plain, -1 if name == "smooth_softmax" else plain):
            raise _unsupported(node, f"attribute {name}={node.attr(name)}")
    for index, what in _UNSUPPORTED_INPUTS.items():
        if node.has(index):
            raise _unsupported(node, f"input {what}")
    if not node.has(_PAST_KEY) or not node.has(_PAST_VALUE):
        raise _unsupported(node, "no past_key and past_value: without a cache")
    heads, groups = node.attr("num_heads"), node.attr("kv_num_heads")
    depth = node.shape(_PAST_KEY)[3]
    parts = _query_key_value(node, out, heads, groups, depth)
    if node.attr("do_rotary", 0):
        parts[:2] = [
            _turned(node, out, x, count, depth) for x, count in _counted(parts, heads, groups)
        ]
    caches = []
    for index, rows in ((_PAST_KEY, parts[1]), (_PAST_VALUE, parts[2])):
        caches.append(out.op("UpdateKv", node.input(index), rows, PAST, domain=OWN_DOMAIN))
    window = node.attr("local_window_size", -1)
    mixed = out.op(
        "CachedAttention",
        parts[0],
        *caches,
        PAST,
        domain=OWN_DOMAIN,
        scale=float(node.attr("scale", 0.0) or 1 / math.sqrt(depth)),
        softcap=float(node.attr("softcap", 0.0)),
        window=max(window, 0),
    )
    out.output(mixed)
    out.output(caches[0], 1)
    out.output(caches[1], 2)
    return True


def _unsupported(node: NodeView, what: str) -> UnsupportedModel:
    return UnsupportedModel(f"node {node.label}: {what} is not supported")


def _counted(parts: list[str], heads: int, groups: int) -> list[tuple[str, int]]:
    return [(parts[0], heads), (parts[1], groups)]


def _query_key_value(
    node: NodeView, out: Emitter, heads: int, groups: int, depth: int
) -> list[str]:
    """Query, key and value as [B, heads, S, D], from separate or one packed input."""
    batch, length, _ = node.shape(_QUERY)
    if node.has(_KEY):
        flat = [node.input(index) for index in (_QUERY, _KEY, _VALUE)]
    else:
        ends = np.cumsum([heads, groups, groups]) * depth
        flat = [
            out.slice(node.input(_QUERY), 2, int(end) - count * depth, int(end))
            for end, count in zip(ends, (heads, groups, groups), strict=True)
        ]
    return [
        out.transpose(out.reshape(x, [batch, length, count, depth]), [0, 2, 1, 3])
        for x, count in zip(flat, (heads, groups, groups), strict=True)
    ]


def _turned(node: NodeView, out: Emitter, x: str, heads: int, depth: int) -> str:
    """Rotary embedding of [B, heads, S, D]: halves of the first R elements form the pairs."""
    limit, half = node.shape(_COS)
    length, capacity = node.shape(_QUERY)[1], node.shape(_PAST_KEY)[2]
    if limit < capacity:
        raise _unsupported(node, f"a context of {capacity}: it knows angles for {limit} positions")
    angles = []
    for index in (_COS, _SIN):
        rows = out.op("Gather", node.input(index), PLACES, axis=0)  # [S, R/2]
        angles.append(out.reshape(rows, [1, 1, length, half]))
    cos, sin = angles
    first, second = out.slice(x, 3, 0, half), out.slice(x, 3, half, 2 * half)
    turned = [
        out.op("Sub", out.op("Mul", first, cos), out.op("Mul", second, sin)),
        out.op("Add", out.op("Mul", second, cos), out.op("Mul", first, sin)),
    ]
    if 2 * half < depth:
        turned.append(out.slice(x, 3, 2 * half, depth))
    return out.op("Concat", *turned, axis=3)


# Inputs and outputs of ONNX's own Attention.
_MASK, _JOINED_KEY, _JOINED_VALUE, _LENGTHS, _SCORES_OUT = 3, 4, 5, 6, 3


def _attention(node: NodeView, out: Emitter) -> bool:
    """ONNX's `Attention`, written out in the form that `fuse_attention` knows; caches joined."""
    if PAST not in node.types:
        return False
    if node.attr("softcap", 0.0):
        raise _unsupported(node, f"attribute softcap={node.attr('softcap')}")
    if node.has(_LENGTHS):
        raise _unsupported(node, "input nonpad_kv_seqlen")
    if node.has_output(_SCORES_OUT):
        raise _unsupported(node, "output qk_matmul_output")
    parts = [_by_heads(node, out, index) for index in (_QUERY, _KEY, _VALUE)]
    (query, (batch, heads, length, depth)), (_, (_, groups, _, _)), (_, value_shape) = parts
    caches = []
    for index, past in ((_KEY, _JOINED_KEY), (_VALUE, _JOINED_VALUE)):
        joined, shape = parts[index]
        if node.has(past):
            joined = out.op("Concat", node.input(past), joined, axis=2)
            shape = (*shape[:2], shape[2] + node.shape(past)[2], shape[3])
        caches.append((joined, shape))
    (keys, key_shape), (values, _) = caches
    capacity, dtype = key_shape[2], node.dtype(_QUERY)
    repeated = [_repeated(out, cache, shape, heads // groups) for cache, shape in caches]
    scores = out.op("MatMul", query, out.transpose(repeated[0], [0, 1, 3, 2]))
    scale = float(node.attr("scale", 0.0) or 1 / math.sqrt(depth))
    scores = out.op("Mul", scores, out.const(scale, dtype))
    hidden = out.const(-math.inf, dtype)
    if node.attr("is_causal", 0):
        if node.has(_MASK) or not node.has(_JOINED_KEY):
            raise _unsupported(node, "is_causal beside a mask, or without past_key")
        places = out.reshape(PLACES, [length, 1])
        seen = out.op("LessOrEqual", out.const(np.arange(capacity)[None], "int64"), places)
        scores = out.op("Where", seen, scores, hidden)
    elif node.has(_MASK) and node.dtype(_MASK) == "bool":
        scores = out.op("Where", node.input(_MASK), scores, hidden)
    elif node.has(_MASK):
        scores = out.op("Add", scores, node.input(_MASK))
    mixed = out.op("MatMul", out.op("Softmax", scores, axis=-1), repeated[1])
    if len(node.shape(_QUERY)) == 3:
        mixed = out.transpose(mixed, [0, 2, 1, 3])
        mixed = out.reshape(mixed, [batch, length, heads * value_shape[3]])
    out.output(mixed)
    out.output(keys, 1)
    out.output(values, 2)
    return True


def _by_heads(node: NodeView, out: Emitter, index: int) -> tuple[str, tuple[int, ...]]:
    """An input as [B, heads, S, D], and that shape; in three dimensions heads lie side by side."""
    shape = tuple(node.shape(index))
    if len(shape) == 4:
        return node.input(index), shape
    heads = node.attr("q_num_heads" if index == _QUERY else "kv_num_heads")
    batch, length, width = shape
    wide = out.reshape(node.input(index), [batch, length, heads, width // heads])
    return out.transpose(wide, [0, 2, 1, 3]), (batch, heads, length, width // heads)


def _repeated(out: Emitter, cache: str, shape: tuple[int, ...], times: int) -> str:
    """Every head of [B, heads, C, D] `times` times, one after the other."""
    if times == 1:
        return cache
    batch, heads, length, depth = shape
    wide = out.reshape(cache, [batch, heads, 1, length, depth])
    wide = out.op("Expand", wide, out.const([batch, heads, times, length, depth], "int64"))
    return out.reshape(wide, [batch, heads * times, length, depth])


def _gather_block_quantized(node: NodeView, out: Emitter) -> bool:
    """Rows of a table in blocks of integers: `(q - zero) * scale` of the rows that are read."""
    table, scales, zeros = node.const(0), node.const(2), node.const(3)
    if table is None or scales is None or (node.has(3) and zeros is None):
        return False
    rank, bits, block = table.ndim, node.attr("bits", 4), node.attr("block_size", 128)
    if rank != 2 or node.attr("gather_axis", 0) % rank or node.attr("quantize_axis", 1) % rank != 1:
        return False
    blocks = scales.shape[1]
    packed = table.dtype == np.uint8 and bits < 8
    quants = unpack_bits(table, bits) if packed else table
    middle: np.ndarray | None = zeros
    if zeros is not None and packed:
        middle = unpack_bits(zeros, bits)[:, :blocks]
    if zeros is None and table.dtype == np.uint8:
        middle = np.full_like(scales, 1 << (bits - 1), dtype=np.uint8)
    storage = "uint8" if quants.min(initial=0) >= 0 else "int8"
    index, dtype = node.input(1), node.dtype(2)
    to = {"float32": 1, "float16": 10}[dtype]
    shape = [*node.shape(1), blocks, block]
    width = quants.shape[1]
    if width != blocks * block:
        return False
    rows = out.op("Gather", out.const(quants.astype(storage), storage), index, axis=0)
    rows = out.reshape(out.op("Cast", rows, to=to), shape)
    if middle is not None:
        lows = out.op("Gather", out.const(middle.astype(storage), storage), index, axis=0)
        rows = out.op("Sub", rows, out.reshape(out.op("Cast", lows, to=to), [*shape[:-1], 1]))
    factors = out.op("Gather", node.input(2), index, axis=0)
    rows = out.op("Mul", rows, out.reshape(factors, [*shape[:-1], 1]))
    out.output(out.reshape(rows, [*shape[:-2], width]))
    return True


LLM_DECOMPOSITIONS: dict[tuple[str, str], Decomposition] = {
    (MICROSOFT, "GroupQueryAttention"): _group_query_attention,
    ("", "Attention"): _attention,
    (MICROSOFT, "GatherBlockQuantized"): _gather_block_quantized,
}
