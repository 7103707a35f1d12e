"""Attention over a cache as an exporter writes it out, in Relax."""

from __future__ import annotations

import numpy as np
from tvm import IRModule, relax

PAST, MASK = "past", "mask"
HEADS, GROUPS, ROWS, CAPACITY, DEPTH = 4, 2, 3, 8, 16


def program(
    *, scale=0.25, on_query=False, softcap=0.0, masked=True, guarded=False, extra_reader=False
) -> IRModule:
    """`main(q, key, value, k, v, mask, past)`: caches joined with new rows, heads repeated."""
    cache = relax.TensorType((1, GROUPS, CAPACITY - ROWS, DEPTH), "float32")
    new = relax.TensorType((1, GROUPS, ROWS, DEPTH), "float32")
    types = {
        "q": relax.TensorType((1, HEADS, ROWS, DEPTH), "float32"),
        "key": cache,
        "value": cache,
        "k": new,
        "v": new,
        MASK: relax.TensorType((1, 1, ROWS, CAPACITY), "float32"),
        PAST: relax.TensorType((1,), "int32"),
    }
    params = [relax.Var(name, ty) for name, ty in types.items()]
    q, key, value, k, v, mask, _past = params
    op, builder = relax.op, relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            keys = builder.emit(op.concat([key, k], axis=2), "keys")
            values = builder.emit(op.concat([value, v], axis=2), "values")
            turned = builder.emit(op.permute_dims(_repeat(builder, keys), [0, 1, 3, 2]))
            factor = relax.const(np.float32(scale))
            if on_query:
                q = builder.emit(op.multiply(q, factor))
            scores = builder.emit(op.matmul(q, turned), "scores")
            if not on_query:
                scores = builder.emit(op.multiply(scores, factor))
            if softcap:
                cap = relax.const(np.float32(softcap))
                scores = builder.emit(op.tanh(builder.emit(op.divide(scores, cap))))
                scores = builder.emit(op.multiply(scores, cap))
            if masked:
                shown = builder.emit(op.add(mask, relax.const(np.float32(0))), "shown")
                scores = builder.emit(op.add(scores, shown))
            weights = builder.emit(op.nn.softmax(scores, axis=-1), "weights")
            if guarded:
                lost = builder.emit(op.isnan(weights))
                weights = builder.emit(op.where(lost, relax.const(np.float32(0)), weights))
            mixed = builder.emit(op.matmul(weights, _repeat(builder, values)), "mixed")
            rows = builder.emit(op.permute_dims(mixed, [0, 2, 1, 3]), "rows")
            outputs = [builder.emit_output(op.reshape(rows, (1, ROWS, HEADS * DEPTH)), "out")]
            if extra_reader:
                outputs.append(builder.emit_output(op.sum(keys), "total"))
        builder.emit_func_output(relax.Tuple(outputs))
    return builder.get()


def _repeat(builder, cache):
    op, times = relax.op, HEADS // GROUPS
    wide = builder.emit(op.reshape(cache, (1, GROUPS, 1, CAPACITY, DEPTH)))
    wide = builder.emit(op.broadcast_to(wide, (1, GROUPS, times, CAPACITY, DEPTH)))
    return builder.emit(op.reshape(wide, (1, HEADS, CAPACITY, DEPTH)))


def causal(window: int = 0, hidden: float = -np.inf) -> np.ndarray:
    """The mask of the last `ROWS` of `CAPACITY` positions."""
    place = np.arange(CAPACITY - ROWS, CAPACITY)[:, None]
    j = np.arange(CAPACITY)[None, :]
    seen = (j <= place) & (j > place - (window or CAPACITY))
    return np.where(seen, 0.0, hidden).astype(np.float32)[None, None]
