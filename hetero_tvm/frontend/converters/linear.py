"""Matrix products."""

from __future__ import annotations

import numpy as np
from tvm import relax

from hetero_tvm.frontend.converters.context import Conversion, Converter

op = relax.op


def _matmul(c: Conversion) -> relax.Expr:
    return op.matmul(c.x(0), c.x(1))


def _gemm(c: Conversion) -> relax.Expr:
    """`alpha * A' B' + beta * C` as a plain `matmul` and `add`; known operands absorb the rest."""
    alpha, beta = c.node.attr("alpha", 1.0), c.node.attr("beta", 1.0)
    weight = c.node.const(1)
    left = op.permute_dims(c.x(0), [1, 0]) if c.node.attr("transA", 0) else c.x(0)
    if c.node.attr("transA", 0):
        left = c.emit(left)
    if weight is not None:
        weight = weight.T if c.node.attr("transB", 0) else weight
        if alpha != 1:
            weight = (weight * alpha).astype(c.out.dtype)
        right = c.array(weight)
    else:
        right = c.emit(op.permute_dims(c.x(1), [1, 0])) if c.node.attr("transB", 0) else c.x(1)
    product = op.matmul(left, right)
    if weight is None and alpha != 1:
        product = op.multiply(c.emit(product), c.scalar(alpha))
    if not c.node.has(2) or beta == 0:
        return product
    bias = c.node.const(2)
    if bias is None:
        addend = c.x(2) if beta == 1 else c.emit(op.multiply(c.x(2), c.scalar(beta)))
    else:
        addend = c.array(bias if beta == 1 else (bias * np.asarray(beta, bias.dtype)))
    return op.add(c.emit(product), addend)


CONVERTERS: dict[str, Converter] = {"MatMul": _matmul, "Gemm": _gemm}
