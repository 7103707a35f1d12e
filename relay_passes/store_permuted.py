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

import math
from collections import Counter

import tvm
import tvm_ffi
from tvm import IRModule, relax, tirx
from tvm.ir import GlobalVar
from tvm.ir.transform import PassContext
from tvm.relax.expr_functor import PyExprMutator, mutator

# PrimFunc attributes, which the legalisations give.
PERMUTES = "hetero.permutes"
STORES_ANYWHERE = "hetero.stores_anywhere"

_ELEMENTWISE, _BROADCAST = 0, 1  # fusion patterns of TVM


@tvm.transform.module_pass(opt_level=0, name="StorePermuted")
class StorePermuted:
    """Mark permutations of a contraction's result as element-wise."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """Rewrite the calls in `main`."""
        rewriter = _Marker(mod)
        main = rewriter.visit_expr(mod["main"])
        result = rewriter.builder_.get()
        result["main"] = main
        return result


@mutator
class _Marker(PyExprMutator):
    def __init__(self, mod: IRModule) -> None:
        super().__init__(mod)
        self.mod = mod
        self.uses = _uses(mod["main"])
        # Contractions and their epilogues so far.
        self.open: set[relax.Var] = set()

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Note what leads to a contraction; mark a permutation of it."""
        call = binding.value
        func = self._callee(call)
        if func is None:
            super().visit_var_binding_(binding)
            return
        callee, operands, *_ = call.args
        pattern = func.attrs.get("op_pattern")
        # An epilogue that spreads a small result is none: see `keep_broadcasts_apart`.
        is_open = [x for x in operands.fields if x in self.open and _size(x) == _size(call)]
        if func.attrs.get(STORES_ANYWHERE) or (pattern in (_ELEMENTWISE, _BROADCAST) and is_open):
            self.open.add(binding.var)
        elif func.attrs.get(PERMUTES) and is_open and self.uses[is_open[0]] == 1:
            self.open.add(binding.var)
            marked = func.with_attr("op_pattern", _ELEMENTWISE)
            copy = self.builder_.add_func(marked, callee.name_hint)
            call = relax.Call(call.op, [copy, *call.args[1:]], call.attrs, call.ty_args)
            binding = relax.VarBinding(binding.var, self.builder_.normalize(call))
        super().visit_var_binding_(binding)

    def _callee(self, call: relax.Expr) -> tirx.PrimFunc | None:
        """The kernel of a `call_tir`."""
        if not (isinstance(call, relax.Call) and call.op == tvm.ir.Op.get("relax.call_tir")):
            return None
        func = self.mod[call.args[0]] if isinstance(call.args[0], GlobalVar) else None
        return func if isinstance(func, tirx.PrimFunc) else None


def _uses(main: relax.Function) -> Counter[relax.Var]:
    """How often every variable is read."""
    uses: Counter[relax.Var] = Counter()
    for block in main.body.blocks:
        for binding in block.bindings:
            tvm_ffi.structural_walk(binding.value, (relax.Var, lambda var: uses.update([var])))
    tvm_ffi.structural_walk(main.body.body, (relax.Var, lambda var: uses.update([var])))
    return uses


def _size(expr: relax.Expr) -> int:
    """Number of elements of a tensor of known shape, 0 of anything else."""
    shape = getattr(expr.ty, "shape", None)
    if shape is None or not all(isinstance(n, (int, tirx.IntImm)) for n in shape):
        return 0
    return math.prod(int(n) for n in shape)
