"""Recognise root-mean-square normalisation written out in elementary operators.

    x / sqrt(mean(x * x) + eps)           ->  nn.rms_norm(x, 1)
    x * (1 / sqrt(mean(x * x) + eps))     ->  nn.rms_norm(x, 1)
    nn.rms_norm(x, g) * c                 ->  nn.rms_norm(x, g * c)

for means over trailing axes and constants `c` over these axes. Language models hold two per layer,
and every exporter writes them out.

Requires: powers of two imported as products; `FuseLayerNorm` done, whose pattern holds this one.
Ensures:  the same value up to the rounding of one multiplication.
"""

from __future__ import annotations

import numpy as np
from tvm import IRModule, relax

from relay_passes.constants import array_of, is_number, number_of, tensor_constant
from relay_passes.fuse_layer_norm import fits_gain, trailing_axes
from relay_passes.rewrite_bindings import Bindings, is_call, rewrite_main


class FuseRmsNorm:
    """Rewrite the written-out form, then take constant gains in."""

    def __call__(self, mod: IRModule) -> IRModule:
        """The module with its root-mean-square normalisations fused."""
        return rewrite_main(mod, _rule)


def _rule(_var: relax.Var, value: relax.Expr, known: Bindings) -> relax.Expr | None:
    if is_call(value, "relax.divide"):
        return _norm(value.args[0], value.args[1], known)
    if not is_call(value, "relax.multiply"):
        return None
    for x, factor in (value.args, reversed(value.args)):
        inverse = known.call(factor, "relax.divide")
        if inverse is not None and is_number(inverse.args[0], 1.0):
            found = _norm(x, inverse.args[1], known)
            if found is not None:
                return found
        found = _absorb(x, factor, known)
        if found is not None:
            return found
    return None


def _norm(x: relax.Expr, spread: relax.Expr, known: Bindings) -> relax.Expr | None:
    """`nn.rms_norm(x, 1)` when `spread` is `sqrt(mean(x * x) + eps)`."""
    root = known.call(spread, "relax.sqrt")
    total = None if root is None else known.call(root.args[0], "relax.add")
    if total is None or not isinstance(x, relax.Var):
        return None
    for square_mean, addend in (total.args, reversed(total.args)):
        mean, epsilon = known.call(square_mean, "relax.mean"), number_of(addend)
        if mean is None or epsilon is None:
            continue
        square, axes = known.call(mean.args[0], "relax.multiply"), trailing_axes(mean)
        if square is None or axes is None or not all(arg.same_as(x) for arg in square.args):
            continue
        if len(axes) == x.ty.ndim:
            continue  # TVM's kernel needs an axis that is left
        tail = [int(x.ty.shape.values[axis]) for axis in axes]
        gain = tensor_constant(np.ones(tail, str(x.ty.dtype)))
        return relax.op.nn.rms_norm(x, gain, axes, epsilon=epsilon)
    return None


def _absorb(operand: relax.Expr, factor: relax.Expr, known: Bindings) -> relax.Expr | None:
    norm = known.call(operand, "relax.nn.rms_norm")
    constant = array_of(factor)
    if norm is None or constant is None or not known.is_read_once(operand):
        return None
    gain = array_of(norm.args[1])
    constant = None if gain is None else fits_gain(constant, gain)
    if constant is None:
        return None
    axes = [int(axis) for axis in norm.attrs.axes]
    return relax.op.nn.rms_norm(
        norm.args[0], tensor_constant(gain * constant), axes, epsilon=float(norm.attrs.epsilon)
    )
