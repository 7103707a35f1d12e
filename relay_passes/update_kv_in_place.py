"""A cache that an exporter joins anew at every step becomes one that is written.

    cache = concat(past [B, H, P, D], rows [B, H, S, D], axis=2)
        ->  hetero.update_kv(past [B, H, P + S, D], rows, how many)

The parameter grows to the length of the join: it is the cache itself now, of any filling. Where
rows lay behind P others, they lie behind as many as `how many` says; whatever looks at the cache
must know that, so `FuseAttention` comes next and checks that nothing else looks.

Requires: every `caches` parameter is read by exactly one concatenation, as its first part.
Ensures:  no concatenation of a cache is left.
"""

from __future__ import annotations

from collections.abc import Collection

from tvm import IRModule, relax

from relay_passes.attention import update_kv
from relay_passes.op_work import static_shape
from relay_passes.program import PlacementError
from relay_passes.rewrite_bindings import Bindings, dataflow_bindings, is_call, rewrite_main

_SEQUENCE = 2


class UpdateKvInPlace:
    """Rewrite the joins of the parameters `caches`; `past` is the parameter that counts."""

    def __init__(self, caches: Collection[str], past: str) -> None:
        self.caches = frozenset(caches)
        self.past = past

    def __call__(self, mod: IRModule) -> IRModule:
        """The module with caches that are written."""
        params = {param.name: param for param in mod["main"].params}
        grown: dict[relax.Var, relax.Var] = {}
        joined: set[str] = set()
        for binding in dataflow_bindings(mod["main"]):
            cache = self._cache_of(binding.value)
            if cache is not None:
                if cache.name in joined:
                    raise PlacementError(f"main: {cache.name} is joined twice")
                joined.add(cache.name)
                ty = relax.TensorType(static_shape(binding.var.ty), binding.var.ty.dtype)
                grown[cache] = relax.Var(cache.name, ty)
        missing = sorted(self.caches - joined)
        if missing:
            raise PlacementError(f"main: no step joins new rows to {missing[0]}")
        past = params[self.past]
        new = {var: cache for cache, var in grown.items()}

        def rule(_var: relax.Var, value: relax.Expr, _known: Bindings) -> relax.Expr | None:
            if not is_call(value, "relax.concat") or value.args[0].fields[0] not in new:
                return None
            cache, rows = value.args[0].fields
            return update_kv(cache, rows, past)

        return rewrite_main(mod, rule, grown)

    def _cache_of(self, value: relax.Expr) -> relax.Var | None:
        """The cache that `value` joins rows to."""
        if not is_call(value, "relax.concat") or not isinstance(value.args[0], relax.Tuple):
            return None
        fields = value.args[0].fields
        first = fields[0]
        is_cache = isinstance(first, relax.Var) and first.name in self.caches
        if not is_cache or len(fields) != 2 or int(value.attrs.axis) not in (_SEQUENCE, -2):
            return None
        return first
