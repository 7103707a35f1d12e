"""Recognise GELU written out in elementary operators.

    0.5 * x * (1 + erf(x / sqrt(2)))                          ->  nn.gelu(x)
    0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))   ->  nn.gelu_tanh(x)

in any order and grouping of the factors. The pattern is the operator's definition, so nothing is
approximated; five kernels over the widest activation of a transformer become one, and an NPU can
use its own GELU.

Requires: reshapes folded, so that none stands between the factors.
Ensures:  the result keeps the name of the last multiplication.
"""

from __future__ import annotations

import math

from tvm import IRModule, relax

from relay_passes.constants import is_number
from relay_passes.rewrite_bindings import Bindings, rewrite_main


class FuseGelu:
    """Rewrite both written-out forms of GELU to their operators."""

    def __call__(self, mod: IRModule) -> IRModule:
        """The module with its GELUs fused."""
        return rewrite_main(mod, _rule)


def _rule(_var: relax.Var, value: relax.Expr, known: Bindings) -> relax.Expr | None:
    halves, gates, others = [], [], []
    for factor in _factors(value, known):
        gate = _gate(factor, known)
        if gate is not None:
            gates.append(gate)
        elif is_number(factor, 0.5):
            halves.append(factor)
        else:
            others.append(factor)
    if (len(halves), len(gates), len(others)) != (1, 1, 1):
        return None
    curve, argument = gates[0]
    x = others[0]
    if not isinstance(x, relax.Var):
        return None
    if curve == "erf" and _is_scaled(argument, x, math.sqrt(0.5), known):
        return relax.op.nn.gelu(x)
    if curve == "tanh" and _is_tanh_argument(argument, x, known):
        return relax.op.nn.gelu_tanh(x)
    return None


def _factors(value: relax.Expr, known: Bindings) -> list[relax.Expr]:
    """The factors of a product, looking through products that only it reads."""
    call = known.call(value, "relax.multiply")
    if call is None:
        return [value]
    factors: list[relax.Expr] = []
    for operand in call.args:
        inner = known.call(operand, "relax.multiply")
        if inner is not None and known.is_read_once(operand):
            factors += _factors(inner, known)
        else:
            factors.append(operand)
    return factors


def _gate(expr: relax.Expr, known: Bindings) -> tuple[str, relax.Expr] | None:
    """`("erf", a)` for `1 + erf(a)`, `("tanh", a)` for `1 + tanh(a)`."""
    total = known.call(expr, "relax.add")
    if total is None or not known.is_read_once(expr):
        return None
    for one, other in (total.args, reversed(total.args)):
        if not is_number(one, 1.0):
            continue
        for curve in ("erf", "tanh"):
            call = known.call(other, f"relax.{curve}")
            if call is not None:
                return curve, call.args[0]
    return None


def _is_scaled(expr: relax.Expr, x: relax.Expr, scale: float, known: Bindings) -> bool:
    """Is `expr` equal to `scale * x`?"""
    product = known.call(expr, "relax.multiply")
    if product is not None:
        a, b = product.args
        return (a.same_as(x) and is_number(b, scale)) or (b.same_as(x) and is_number(a, scale))
    quotient = known.call(expr, "relax.divide")
    if quotient is None:
        return False
    return quotient.args[0].same_as(x) and is_number(quotient.args[1], 1 / scale)


def _is_tanh_argument(expr: relax.Expr, x: relax.Expr, known: Bindings) -> bool:
    """Is `expr` equal to `sqrt(2/pi) * (x + 0.044715 * x^3)`?"""
    product = known.call(expr, "relax.multiply")
    if product is None:
        return False
    for scale, inner in (product.args, reversed(product.args)):
        total = known.call(inner, "relax.add")
        if total is None or not is_number(scale, math.sqrt(2 / math.pi), 1e-4):
            continue
        for linear, cubic in (total.args, reversed(total.args)):
            if linear.same_as(x) and _is_cube(cubic, x, known):
                return True
    return False


def _is_cube(expr: relax.Expr, x: relax.Expr, known: Bindings) -> bool:
    """Is `expr` equal to `0.044715 * x^3`?"""
    factors = [f for factor in _factors(expr, known) for f in _powers(factor, known)]
    numbers = [factor for factor in factors if is_number(factor, 0.044715, 1e-4)]
    bases = [factor for factor in factors if factor.same_as(x)]
    return len(numbers) == 1 and len(bases) == 3 and len(factors) == 4


def _powers(expr: relax.Expr, known: Bindings) -> list[relax.Expr]:
    call = known.call(expr, "relax.power")
    if call is not None and is_number(call.args[1], 3.0):
        return [call.args[0]] * 3
    product = known.call(expr, "relax.multiply")
    return list(product.args) if product is not None else [expr]
