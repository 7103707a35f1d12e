"""Let a contraction store its result permuted: a transpose behind it is part of its epilogue.

    p = matmul(x, w)            # [M, N]
    p = relu(add(p, bias))
    t = permute_dims(p)         # [N, M]: one kernel with the product, not a pass over memory

FuseOps takes only element-wise followers into a contraction's kernel. A permutation whose operand
chain leads through element-wise operators to a contraction that can store anywhere is therefore
marked as element-wise; the contraction's schedule puts the elements where they belong.

Requires: legalised calls with their fusion patterns annotated; functions say by attributes what
they are (`PERMUTES`: a permutation and nothing else; `STORES_ANYWHERE`: its schedule takes one).
Ensures:  only such permutations are marked; functions are copied, not changed.
"""

from __future__ import annotations

from collections import Counter

import tvm
import tvm_ffi
from tvm import IRModule, relax
from tvm.ir.transform import PassContext
from tvm.relax.expr_functor import mutator

from relay_passes.tir_calls import (
    BROADCAST,
    ELEMENTWISE,
    PATTERN,
    PatternMarker,
    callee,
    elements,
)

# PrimFunc attributes, which the legalisations give.
PERMUTES = "hetero.permutes"
STORES_ANYWHERE = "hetero.stores_anywhere"


@tvm.transform.module_pass(opt_level=0, name="StorePermuted")
class StorePermuted:
    """Mark permutations of a contraction's result as element-wise."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """Rewrite the calls in `main`."""
        return _Marker(mod).run()


@mutator
class _Marker(PatternMarker):
    """`open`: contractions and their epilogues so far."""

    def __init__(self, mod: IRModule) -> None:
        super().__init__(mod)
        self.uses = _uses(mod["main"])

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Note what leads to a contraction; mark a permutation of it."""
        call = binding.value
        func = callee(self.mod, call)
        if func is None:
            super().visit_var_binding_(binding)
            return
        pattern = func.attrs.get(PATTERN)
        size, operands = elements(call), call.args[1].fields
        # An epilogue that spreads a small result is none: see `keep_broadcasts_apart`.
        is_open = [x for x in operands if x in self.open and elements(x) == size]
        if func.attrs.get(STORES_ANYWHERE) or (pattern in (ELEMENTWISE, BROADCAST) and is_open):
            self.open.add(binding.var)
        elif func.attrs.get(PERMUTES) and is_open and self.uses[is_open[0]] == 1:
            self.open.add(binding.var)
            binding = self.marked(binding, ELEMENTWISE)
        super().visit_var_binding_(binding)


def _uses(main: relax.Function) -> Counter[relax.Var]:
    """How often every variable is read."""
    uses: Counter[relax.Var] = Counter()
    for block in main.body.blocks:
        for binding in block.bindings:
            tvm_ffi.structural_walk(binding.value, (relax.Var, lambda var: uses.update([var])))
    tvm_ffi.structural_walk(main.body.body, (relax.Var, lambda var: uses.update([var])))
    return uses
