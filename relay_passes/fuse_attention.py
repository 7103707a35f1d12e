"""Attention over a cache, written out by an exporter, becomes `hetero.attention`.

    scores = q [B, Hq, S, D] x k^T                 k, v: a cache, or its heads repeated
    scores * s, s * q, s * k^T                     scales, anywhere, any number of them
    c * tanh(scores / c)                           a soft cap
    scores + mask, where(seen, scores, -big)       a mask [.., S, C]
    where(isnan(p), 0, p) of p = softmax(scores)   as exporters guard rows that see nothing
    p x v                                          ->  hetero.attention, permuted to [B, Hq, S, D]

What a mask means is not read from its operators but from its values: `mask_values` computes it for
a step whose S rows end the cache, with nothing hidden by the caller. It must then hide exactly what
is not causal, or what is not causal or farther back than a window; anything else is refused.

Requires: `UpdateKvInPlace` done; heads repeated by `expand_dims` or `reshape`, then `broadcast_to`.
Ensures:  every cache is read by `hetero.attention` alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from tvm import IRModule, relax

from relay_passes.attention import UPDATE_KV, AttentionAttrs, attention
from relay_passes.constants import number_of
from relay_passes.op_work import static_shape
from relay_passes.program import PlacementError
from relay_passes.rewrite_bindings import (
    Bindings,
    dataflow_bindings,
    is_call,
    rewrite_main,
)

MaskValues = Callable[[IRModule, Sequence[relax.Var]], list[np.ndarray]]
"""The values of variables of `main`, none of which depends on tokens or caches."""
_HIDDEN = -1e3  # what is added to a score that must not count; exporters write -inf, or -3e38, -1e4
_TO_ROWS = [0, 2, 1, 3]


_INSTEAD = (
    "; a text is continued token by token, so nothing may see what comes later: export a decoder "
    "with causal attention (optimum: --task text-generation-with-past)"
)


class NotCausal(PlacementError):
    """A mask that hides something else than what comes later."""

    def __init__(self, what: str) -> None:
        super().__init__(what + _INSTEAD)


@dataclasses.dataclass(frozen=True)
class _Scores:
    """What stands behind a softmax."""

    q: relax.Expr
    keys: relax.Expr  # the cache
    scale: float
    softcap: float
    mask: relax.Expr | None
    condition: relax.Expr | None  # of a `where`: what is seen


class FuseAttention:
    """Rewrite every attention over a cache; `past` is the parameter that counts its rows."""

    def __init__(self, past: str, mask_values: MaskValues) -> None:
        self.past = past
        self.mask_values = mask_values
        self._windows: dict[str, int] = {}

    def __call__(self, mod: IRModule) -> IRModule:
        """The module with its attention fused; `PlacementError` where a cache is read otherwise."""
        past = next(param for param in mod["main"].params if param.name == self.past)
        self._windows = self._read_masks(mod)

        def rule(var: relax.Var, value: relax.Expr, known: Bindings) -> relax.Expr | None:
            if is_call(value, "relax.matmul"):
                return self._fused(value, known, past)
            if is_call(value, "relax.permute_dims"):
                return _untwisted(value, known)
            return None

        fused = rewrite_main(mod, rule)
        _check_readers(fused)
        return fused

    def _read_masks(self, mod: IRModule) -> dict[str, int]:
        """Name of a mask -> its window, 0 where there is none."""
        known = Bindings.of(mod)
        masks: dict[str, relax.Var] = {}
        for binding in dataflow_bindings(mod["main"]):
            if is_call(binding.value, "relax.matmul"):
                found = _scores_of(binding.value, known)
                if found is None or _cache_behind(binding.value.args[1], known) is None:
                    continue
                masking = [v for v in (found.mask, found.condition) if isinstance(v, relax.Var)]
                if not masking:
                    raise NotCausal(
                        "attention over a cache has no mask, each token sees the later ones too"
                    )
                masks.update((var.name, var) for var in masking)
        if not masks:
            return {}
        values = self.mask_values(mod, list(masks.values()))
        return {name: _window(name, array) for name, array in zip(masks, values, strict=True)}

    def _fused(self, value: relax.Call, known: Bindings, past: relax.Var) -> relax.Expr | None:
        found = _scores_of(value, known)
        values = None if found is None else _cache_behind(value.args[1], known)
        if found is None or values is None:
            return None
        windows = [
            self._windows[var.name]
            for var in (found.mask, found.condition)
            if isinstance(var, relax.Var)
        ]
        attrs = AttentionAttrs(scale=found.scale, softcap=found.softcap, window=max(windows))
        shape = static_shape(found.q.ty) or ()
        if len(shape) != 4:
            return None
        batch, heads, length, _ = shape
        depth = (static_shape(values.ty) or ())[3]
        mixed = attention(found.q, found.keys, values, past, attrs)
        rows = relax.op.reshape(mixed, (batch, length, heads, depth))
        result = relax.op.permute_dims(rows, _TO_ROWS)
        wanted = static_shape(value.ty) or ()
        return result if len(wanted) == 4 else relax.op.reshape(result, wanted)


def _untwisted(value: relax.Call, known: Bindings) -> relax.Expr | None:
    """A permutation that undoes another one."""
    inner = known.call(value.args[0], "relax.permute_dims")
    if inner is None or _axes(value) != _TO_ROWS or _axes(inner) != _TO_ROWS:
        return None
    return inner.args[0]


def _axes(call: relax.Call) -> list[int]:
    rank = len(static_shape(call.ty) or ())
    axes = call.attrs.axes
    return [int(axis) % rank for axis in axes] if axes is not None else list(range(rank))[::-1]


def _check_readers(mod: IRModule) -> None:
    """Nothing but attention may look at a cache, whose rows behind the new ones are anything."""
    caches = {b.var for b in dataflow_bindings(mod["main"]) if is_call(b.value, UPDATE_KV)}
    for binding in dataflow_bindings(mod["main"]):
        value = binding.value
        if not isinstance(value, relax.Call) or is_call(value, "hetero.attention"):
            continue
        if any(arg in caches for arg in value.args if isinstance(arg, relax.Var)):
            raise PlacementError(
                f"{binding.var.name} reads a cache in a form of attention that is not known"
            )


# --- what stands behind a product -----------------------------------------------------------------


def _scores_of(product: relax.Call, known: Bindings) -> _Scores | None:
    """The scores of `softmax(scores) x values`, where keys are a cache."""
    weights = known.value(product.args[0])
    if is_call(weights, "relax.where"):  # where(isnan(p), 0, p)
        guard = known.call(weights.args[0], "relax.isnan")
        if guard is None or number_of(known.value(weights.args[1])) != 0.0:
            return None
        weights = known.value(weights.args[2])
    if not is_call(weights, "relax.nn.softmax"):
        return None
    mask = condition = None
    softcap, scale = 0.0, 1.0
    value = known.value(weights.args[0])
    while True:
        if is_call(value, "relax.where") and condition is None:
            condition, value = value.args[0], known.value(value.args[1])
        elif is_call(value, "relax.add") and mask is None:
            shapes = [static_shape(arg.ty) for arg in value.args]
            side = (
                0
                if shapes[0] == static_shape(value.ty) and _is_product(value.args[0], known)
                else 1
            )
            mask, value = value.args[1 - side], known.value(value.args[side])
        elif is_call(value, "relax.multiply") and (factor := _factor(value, known)) is not None:
            curve = known.call(factor[0], "relax.tanh")
            if curve is not None and not softcap:
                softcap = factor[1]
                value = curve
            else:
                scale *= factor[1]
                value = known.value(factor[0])
        elif is_call(value, "relax.divide") and (by := number_of(known.value(value.args[1]))):
            scale /= by
            value = known.value(value.args[0])
        elif is_call(value, "relax.tanh") and softcap:
            value = known.value(value.args[0])
            scale *= (
                softcap  # what is divided by the cap below is multiplied with it by the operator
            )
        else:
            break
    if not is_call(value, "relax.matmul"):
        return None
    q, q_scale = _peeled(value.args[0], known)
    keys, k_scale = _transposed_cache(value.args[1], known)
    if keys is None:
        return None
    return _Scores(q, keys, scale * q_scale * k_scale, softcap, mask, condition)


def _is_product(expr: relax.Expr, known: Bindings) -> bool:
    """Does a product stand behind `expr`, through what may lie between it and the mask?"""
    value = known.value(expr)
    while isinstance(value, relax.Call):
        if is_call(value, "relax.matmul"):
            return True
        if not any(is_call(value, f"relax.{op}") for op in ("multiply", "divide", "tanh")):
            return False
        wide = [a for a in value.args if static_shape(a.ty) == static_shape(value.ty)]
        if not wide:
            return False
        value = known.value(wide[0])
    return False


def _factor(call: relax.Call, known: Bindings) -> tuple[relax.Expr, float] | None:
    """`x * number` as (x, number)."""
    for x, other in (call.args, reversed(call.args)):
        number = number_of(known.value(other))
        if number is not None:
            return x, number
    return None


def _peeled(expr: relax.Expr, known: Bindings) -> tuple[relax.Expr, float]:
    """What `expr` is made of by numbers that it is multiplied with and by views of leading axes.

    Returns that and the product of the numbers. A view that keeps the last two axes keeps the order
    of what is before them.
    """
    scale = 1.0
    while True:
        value = known.value(expr)
        found = _factor(value, known) if is_call(value, "relax.multiply") else None
        by = number_of(known.value(value.args[1])) if is_call(value, "relax.divide") else None
        if found is not None:
            expr, scale = found[0], scale * found[1]
        elif by:
            expr, scale = value.args[0], scale / by
        elif any(is_call(value, f"relax.{op}") for op in ("reshape", "expand_dims", "squeeze")):
            inner = value.args[0]
            if (static_shape(inner.ty) or ())[-2:] != (static_shape(value.ty) or ())[-2:]:
                return expr, scale
            expr = inner
        else:
            return expr, scale


def _transposed_cache(expr: relax.Expr, known: Bindings) -> tuple[relax.Expr | None, float]:
    """The cache behind `k^T`, and what it is multiplied with."""
    expr, outer = _peeled(expr, known)
    swap = known.call(expr, "relax.permute_dims")
    if swap is None:
        return None, 1.0
    axes = _axes(swap)
    if axes != [*range(len(axes) - 2), len(axes) - 1, len(axes) - 2]:
        return None, 1.0
    inner, scale = _peeled(swap.args[0], known)
    return _cache_behind(inner, known), outer * scale


def _cache_behind(expr: relax.Expr, known: Bindings) -> relax.Expr | None:
    """The cache that `expr` is, or whose heads it repeats: head h of it is head h // n."""
    expr, scale = _peeled(expr, known)
    if scale != 1:
        return None
    value = known.value(expr)
    if is_call(value, UPDATE_KV):
        return expr
    if not is_call(value, "relax.broadcast_to"):
        return None
    narrow, wide = (static_shape(x.ty) or () for x in (value.args[0], value))
    cache, scale = _peeled(value.args[0], known)
    if scale != 1 or not is_call(known.value(cache), UPDATE_KV):
        return None
    groups = (static_shape(cache.ty) or ())[1]
    # [.., heads, 1, C, D] -> [.., heads, n, C, D]
    rank = len(wide)
    repeats = (
        rank >= 4
        and narrow[rank - 3] == 1
        and narrow[rank - 4] == groups
        and (*narrow[: rank - 3], wide[rank - 3], *narrow[rank - 2 :]) == wide
    )
    return cache if repeats else None


# --- what a mask hides ----------------------------------------------------------------------------


def _window(name: str, mask: np.ndarray) -> int:
    """The window of a mask [.., S, C] of the last S of C positions; 0: all before.

    Raises:
        NotCausal: it hides anything else.
    """
    seen = mask if mask.dtype == bool else mask > _HIDDEN
    if mask.dtype != bool and np.any(np.abs(mask[seen]) > 0):
        raise NotCausal(
            f"the mask {name} adds to the scores of what is seen, as biases of positions do"
        )
    length, capacity = seen.shape[-2:]
    place = np.arange(capacity - length, capacity)[:, None]
    j = np.arange(capacity)[None, :]
    rows = seen.reshape(-1, length, capacity)
    window = int(rows[0, -1].sum())
    for found in (0, window):
        causal = (j <= place) & ((j > place - found) if found else True)
        if np.all(rows == causal):
            return found
    raise NotCausal(f"the mask {name} hides something else than what comes later: it is not causal")
