"""Call every NPU region as soon as what it reads has been queued, before work beside it.

    gpu_a(x); gpu_b(y); region(a)   ->   gpu_a(x); region(a); gpu_b(y)

The NPU waits for all GPU work that was queued before its region. Fusion leaves kernels where the
last of their operators stood, so kernels that are meant to run beside a region, such as the GPU's
parts of the same operators, may stand before it: the devices would take turns.

Who reads an earlier region's results may come after a later region then: a wait for the NPU says
how many regions it does not mean (`plan_memory`).

Requires: straight-line functions that are no longer dataflow; regions are `call_dps_packed`.
Ensures:  the same bindings; each after what it reads; kernels in the same order among themselves,
          but for those that a region needs, which stay before it.
"""

from __future__ import annotations

from collections.abc import Collection

import tvm
from tvm import IRModule, relax
from tvm.ir import Op
from tvm.ir.transform import PassContext


@tvm.transform.module_pass(opt_level=0, name="StartNpuEarly")
class StartNpuEarly:
    """Reorder every Relax function. `regions`: symbols of the NPU's functions."""

    def __init__(self, regions: Collection[str]) -> None:
        self.regions = frozenset(regions)

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """Functions without a region stay as they are."""
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        for name, func in mod.functions.items():
            if isinstance(func, relax.Function):
                result[name] = self._reordered(func)
        return result

    def _reordered(self, func: relax.Function) -> relax.Function:
        bindings = [binding for block in func.body.blocks for binding in block.bindings]
        ordered: list[relax.VarBinding] = []
        beside: list[relax.VarBinding] = []  # what no region so far needed
        from_npu: set[relax.Var] = set()
        for binding in bindings:
            beside.append(binding)
            if self._is_region(binding.value):
                from_npu.add(binding.var)
                needed = _needed(beside, [binding.var])
                left: list[relax.VarBinding] = []
                for one in beside:
                    if one.var not in needed:
                        left.append(one)
                        continue
                    if _computes(one.value) and from_npu.intersection(variables(one.value)):
                        # Here the host waits: what stood before it must be queued by then.
                        ordered += left
                        left = []
                    ordered.append(one)
                beside = left
            elif not _computes(binding.value) and from_npu.intersection(variables(binding.value)):
                from_npu.add(binding.var)  # another name of the result, or of a part
        if not ordered:
            return func
        body = relax.SeqExpr([relax.BindingBlock(ordered + beside)], func.body.body)
        return relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)

    def _is_region(self, value: relax.Expr) -> bool:
        return (
            isinstance(value, relax.Call)
            and value.op == Op.get("relax.call_dps_packed")
            and str(getattr(value.args[0], "global_symbol", "")) in self.regions
        )


def _computes(value: relax.Expr) -> bool:
    return isinstance(value, relax.Call) and value.op == Op.get("relax.call_tir")


def _needed(bindings: list[relax.VarBinding], reads: Collection[relax.Var]) -> set[relax.Var]:
    """Those of `bindings` that `reads` rest on."""
    needed = set(reads)
    for binding in reversed(bindings):
        if binding.var in needed:
            needed.update(variables(binding.value))
    return needed


def variables(expr: relax.Expr) -> list[relax.Var]:
    """All that `expr` reads."""
    if isinstance(expr, relax.Call):
        return [var for arg in expr.args for var in variables(arg)]
    if isinstance(expr, relax.Tuple):
        return [var for field in expr.fields for var in variables(field)]
    if isinstance(expr, relax.TupleGetItem):
        return variables(expr.tuple_value)
    return [expr] if isinstance(expr, relax.Var) else []
