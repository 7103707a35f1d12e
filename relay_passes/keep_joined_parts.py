"""Give every part of a join memory of its own, where it would be a view of something else.

    p = call_tir(transpose, x)     # [1, 1, n] -> [1, n, 1]: memory stays as it is
    y = join(q, p)                 # p must lie behind q, so it cannot be x itself

`RewriteDataflowReshape` makes a view of every kernel that only renames, unless its result is
visible outside of the dataflow block: so that is what the parts of joins are made.

Requires: joins are `call_pure_packed`, as `split_tensor` writes them.
Ensures:  variables that a join reads are no dataflow variables; nothing else has changed.
"""

from __future__ import annotations

import tvm
from tvm import IRModule, relax
from tvm.ir import Op
from tvm.ir.transform import PassContext
from tvm.relax.expr_functor import PyExprMutator, mutator

from relay_passes.split_tensor import JOIN


@tvm.transform.module_pass(opt_level=0, name="KeepJoinedParts")
class KeepJoinedParts:
    """Rewrite `main`."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """A module without joins stays as it is."""
        parts = joined_parts(mod["main"])
        if not parts:
            return mod
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        result[mod.get_global_var("main")] = _Keeper(mod, parts).visit_expr(mod["main"])
        return result


@mutator
class _Keeper(PyExprMutator):
    def __init__(self, mod: IRModule, parts: frozenset[relax.Var]) -> None:
        super().__init__(mod)
        self.parts = parts

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Bind a part to an ordinary variable of the same name."""
        if binding.var not in self.parts:
            super().visit_var_binding_(binding)
            return
        value = self.builder_.normalize(self.visit_expr(binding.value))
        var = relax.Var(binding.var.name, value.ty)
        self.set_var_remap(binding.var, var)
        self.builder_.emit_normalized(relax.VarBinding(var, value))


def joined_parts(func: relax.Function) -> frozenset[relax.Var]:
    """The variables that joins of `func` read."""
    found: set[relax.Var] = set()
    for block in func.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, relax.Call) and call.op == Op.get("relax.call_pure_packed"):
                symbol = str(getattr(call.args[0], "global_symbol", ""))
                found.update(call.args[1:] if symbol == JOIN else ())
    return frozenset(found)
