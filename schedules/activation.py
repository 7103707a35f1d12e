"""Activations that TVM would not vectorise.

`erf` is a call per element in TVM's vectoriser (13 ns each on the Intel CPU driver); as a rational
polynomial it is plain arithmetic (0.2 ns). Its largest absolute error in float32 is 4e-7.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import relax, te, tirx, topi

from schedules.layout import Legalize, accumulator_dtype, default_legalize


def legalize_erf(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """`relax.erf` of floats of at most 32 bits."""
    return _elementwise(builder, call, "relax.erf", _erf)


def legalize_gelu(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """`relax.nn.gelu`: x * (1 + erf(x / sqrt 2)) / 2."""

    def gelu(x: te.Tensor) -> te.Tensor:
        bell = _erf(te.compute(x.shape, lambda *i: x(*i) * tirx.const(math.sqrt(0.5), x.dtype)))
        half = tirx.const(0.5, x.dtype)
        return te.compute(x.shape, lambda *i: x(*i) * (half + half * bell(*i)), name="gelu")

    return _elementwise(builder, call, "relax.nn.gelu", gelu)


def legalize_leakyrelu(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """`relax.nn.leakyrelu`: max(x, 0) + alpha * min(x, 0), without a condition."""
    alpha = float(call.attrs.alpha)

    def leaky(x: te.Tensor) -> te.Tensor:
        zero, slope = tirx.const(0, x.dtype), tirx.const(alpha, x.dtype)
        return te.compute(
            x.shape, lambda *i: te.max(x(*i), zero) + slope * te.min(x(*i), zero), name="leaky"
        )

    return _elementwise(builder, call, "relax.nn.leakyrelu", leaky)


LEGALIZATIONS: dict[str, Legalize] = {
    "relax.erf": legalize_erf,
    "relax.nn.gelu": legalize_gelu,
    "relax.nn.leakyrelu": legalize_leakyrelu,
}


def _erf(x: te.Tensor) -> te.Tensor:
    return topi.fast_erf(x)


def _elementwise(
    builder: relax.BlockBuilder,
    call: relax.Call,
    op: str,
    function: Callable[[te.Tensor], te.Tensor],
) -> relax.Expr:
    """`function` in float32 on the call's one operand; doubles go to TVM's own legalisation."""
    dtype = str(call.ty.dtype)
    if dtype not in ("float32", "float16"):
        return default_legalize(op)(builder, call)

    def compute(x: te.Tensor) -> te.Tensor:
        wide = accumulator_dtype(dtype)
        if wide == dtype:
            return function(x)
        result = function(te.compute(x.shape, lambda *i: x(*i).astype(wide)))
        return te.compute(x.shape, lambda *i: result(*i).astype(dtype))

    return builder.call_te(compute, call.args[0], primfunc_name_hint=call.op.name.split(".")[-1])
