"""Small programs of attention, and products with what it gives."""

from __future__ import annotations

import numpy as np
from tvm import IRModule, relax

from relay_passes.attention import AttentionAttrs, attention
from relay_passes.constants import tensor_constant

HEADS = 2


def attended(layers=1, *, rows=64, dim=8, tap=None, seed=0) -> IRModule:
    """`layers` times: queries of a stream, attention over given keys and values, a product.

    `dim`: of a head, of which there are two. `tap`: the layer whose attention is read once
    more, behind the last layer.
    """
    width = HEADS * dim
    op, builder, rng = relax.op, relax.BlockBuilder(), np.random.default_rng(seed)
    shapes = {"x": (1, rows, width), "k": (1, HEADS, rows, dim), "v": (1, HEADS, rows, dim)}
    params = [relax.Var(name, relax.TensorType(shape, "float32")) for name, shape in shapes.items()]
    params.append(relax.Var("past", relax.TensorType((1,), "int32")))
    stream, *cache = params
    mixes = []
    with builder.function("main", params):
        with builder.dataflow():
            for layer in range(layers):
                heads = builder.emit(op.reshape(stream, (1, rows, HEADS, dim)), f"heads{layer}")
                asked = builder.emit(op.permute_dims(heads, [0, 2, 1, 3]), f"asked{layer}")
                mixed = builder.emit(
                    attention(asked, *cache, AttentionAttrs(scale=1.0)), f"mixed{layer}"
                )
                weight = tensor_constant(rng.uniform(-1, 1, (width, width)).astype(np.float32))
                stream = builder.emit(op.matmul(mixed, weight), f"stream{layer}")
                mixes.append(mixed)
            if tap is not None:
                stream = builder.emit(op.add(stream, mixes[tap]), "tapped")
            out = builder.emit_output(op.negative(stream), "out")
        builder.emit_func_output(out)
    return relax.transform.Normalize()(builder.get())
