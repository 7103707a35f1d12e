"""Operators that the plan puts on the CPU become kernels compiled by LLVM.

    y = op(x)            ->  y = call_tir(op_cpu, x)

Memory is shared, so no copy is needed; order is, and `plan_memory` sees to it: CPU kernels run at
once, and wait first for whoever made what they read or still uses the memory that they write.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import IRModule, relax
from tvm.ir.transform import PassContext
from tvm.relax import backend
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.s_tir import dlight
from tvm.s_tir.dlight.base import ScheduleRule

from relay_passes.plan import Plan
from relay_passes.tir_calls import OPAQUE, PATTERN, is_call_tir

# PrimFunc attribute: TVM binds the function to the host target.
HOST_ATTR = "tirx.is_host_func"
_LLVM = tvm.target.Target({"kind": "llvm"})


@tvm.transform.module_pass(opt_level=0, name="LowerCpu")
class LowerCpu:
    """Legalise the plan's CPU operators, one kernel each, never fused with GPU kernels.

    `rules` schedule the kernels for LLVM; without any they run as plain loops.

    Requires: bindings of `main` still carry the names in the plan.
    Ensures:  every CPU operator that has a legalisation is a `call_tir` of a host function.
    """

    def __init__(self, plan: Plan, rules: Sequence[ScheduleRule] = ()) -> None:
        self.on_cpu = frozenset(op.name for op in plan.ops if op.device == "cpu")
        self.rules = list(rules)

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """Rewrite `main` and add the host functions."""
        if not self.on_cpu:
            return mod
        with _LLVM:
            # Sorts and scans have no legalisation; TVM chooses their kernels by target.
            mod = backend.DispatchSortScan()(mod)
            rewriter = _Legalizer(mod, self.on_cpu, self.rules)
            main = rewriter.visit_expr(mod["main"])
        result = rewriter.builder_.get()
        result["main"] = main
        return result


@mutator
class _Legalizer(PyExprMutator):
    def __init__(
        self, mod: IRModule, on_cpu: frozenset[str], rules: Sequence[ScheduleRule]
    ) -> None:
        super().__init__(mod)
        self.on_cpu = on_cpu
        self.rules = rules

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Replace the value of a binding that the plan puts on the CPU."""
        value = binding.value
        if binding.var.name not in self.on_cpu or not isinstance(value, relax.Call):
            super().visit_var_binding_(binding)
            return
        call = self.visit_expr_post_order(value)
        lowered = self.builder_.normalize(self._host_call(self._legal(call)))
        super().visit_var_binding_(relax.VarBinding(binding.var, lowered))

    def visit_expr_post_order(self, call: relax.Call) -> relax.Call:
        """`call` on the operands of the new function."""
        args = [self.visit_expr(arg) for arg in call.args]
        return self.builder_.normalize(relax.Call(call.op, args, call.attrs, call.ty_args))

    def _legal(self, call: relax.Call) -> relax.Expr:
        legalize = call.op.get_attr("FLegalize") if isinstance(call.op, tvm.ir.Op) else None
        return call if legalize is None else legalize(self.builder_, call)

    def _host_call(self, call: relax.Expr) -> relax.Expr:
        """`call` of a copy of its function that runs on the CPU."""
        if not is_call_tir(call):
            return call
        callee, *rest = call.args
        func = self.builder_.get()[callee]
        name = f"{callee.name_hint}_cpu"
        host = func.with_attrs({HOST_ATTR: True, PATTERN: OPAQUE, "global_symbol": name})
        scheduled = dlight.ApplyDefaultSchedule(*self.rules)(IRModule({name: host}))
        host = scheduled[name].with_attr("tirx.is_scheduled", True).without_attr("global_symbol")
        copy = self.builder_.add_func(host, name)
        return relax.Call(call.op, [copy, *rest], call.attrs, call.ty_args)
