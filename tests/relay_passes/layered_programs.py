"""Small programs of layers that are alike up to their weights, with something around them."""

from __future__ import annotations

import numpy as np
from tvm import IRModule, relax

from relay_passes.constants import tensor_constant

WIDTH = 32


def layered(layers, *, rows=8, odd=None, seed=0, tap=None) -> IRModule:
    """`layers` times norm, product, SiLU, product, sum; a look-up in front, a head behind.

    `odd`: the layer that has tanh in place of SiLU's sigmoid. `tap`: the layer whose sum the head
    reads, too. All layers add one row that the first of them makes.
    """
    rng = np.random.default_rng(seed)

    def weight(*shape):
        return tensor_constant(rng.uniform(-1, 1, shape).astype(np.float32) / shape[0] ** 0.5)

    op, builder = relax.op, relax.BlockBuilder()
    ids = relax.Var("ids", relax.TensorType((1,), "int64"))
    x = relax.Var("x", relax.TensorType((rows, WIDTH), "float32"))
    sums, row = [], None
    with builder.function("main", [ids, x]):
        with builder.dataflow():

            def emit(call, name):
                return builder.emit(call, name)

            stream = emit(op.multiply(x, weight(rows, WIDTH)), "embed")
            for layer in range(layers):
                normed = emit(op.nn.rms_norm(stream, weight(WIDTH), axes=[-1]), f"norm{layer}")
                if row is None:
                    row = emit(op.take(weight(64, WIDTH), ids, axis=0), "row")
                gate = emit(op.matmul(normed, weight(WIDTH, 2 * WIDTH)), f"gate{layer}")
                bend = op.tanh if layer == odd else op.sigmoid
                curve = emit(bend(gate), f"curve{layer}")
                inner = emit(op.multiply(gate, curve), f"inner{layer}")
                down = emit(op.matmul(inner, weight(2 * WIDTH, WIDTH)), f"down{layer}")
                placed = emit(op.add(down, row), f"placed{layer}")
                stream = emit(op.add(stream, placed), f"stream{layer}")
                sums.append(stream)
            if tap is not None:
                stream = emit(op.add(stream, sums[tap]), "tapped")
            logits = builder.emit_output(op.matmul(stream, weight(WIDTH, 128)), "logits")
        builder.emit_func_output(logits)
    return builder.get()
