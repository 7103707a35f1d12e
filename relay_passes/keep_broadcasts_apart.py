"""Do not let a small result be fused into the kernel that spreads it over a large one.

    g = conv2d(pooled)          # [1, 1, 1, C], a gate
    y = multiply(x, g)          # [1, H, W, C]

FuseOps may put `multiply` behind `conv2d`, as its epilogue. Then one kernel has a loop nest for
the gate and another for the product, neither of which suits the other's schedule. A broadcast
marked as an injective operator still fuses with element-wise neighbours, but not that way.

Requires: legalised calls with their fusion patterns annotated.
Ensures:  no broadcast of a smaller computed operand can become a contraction's epilogue.
"""

from __future__ import annotations

import math

import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import GlobalVar
from tvm.ir.transform import PassContext
from tvm.relax.expr_functor import PyExprMutator, mutator

_ELEMENTWISE, _BROADCAST = 0, 1  # fusion patterns of TVM
_INJECTIVE, _OUT_ELEMENTWISE_FUSABLE = 2, 4
_SPREADING = (_ELEMENTWISE, _BROADCAST)


@tvm.transform.module_pass(opt_level=0, name="KeepBroadcastsApart")
class KeepBroadcastsApart:
    """Mark such broadcasts as injective."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """Rewrite the calls in `main`; functions are copied, not changed."""
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
        # Variables whose kernel a broadcast could join: contractions and their epilogues.
        self.open: set[relax.Var] = set()

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Note what stays open to an epilogue; close it where a broadcast spreads it."""
        call = binding.value
        if not (isinstance(call, relax.Call) and call.op == tvm.ir.Op.get("relax.call_tir")):
            super().visit_var_binding_(binding)
            return
        callee, operands, *_ = call.args
        pattern = self._pattern(callee)
        is_open = [field for field in operands.fields if field in self.open]
        if pattern == _OUT_ELEMENTWISE_FUSABLE or (pattern in _SPREADING and is_open):
            self.open.add(binding.var)
        if pattern in _SPREADING and any(_elements(x) < _elements(call) for x in is_open):
            self.open.discard(binding.var)
            func = self.mod[callee].with_attr("op_pattern", _INJECTIVE)
            copy = self.builder_.add_func(func, callee.name_hint)
            rest = call.args[1:]
            call = relax.Call(call.op, [copy, *rest], call.attrs, call.ty_args)
            binding = relax.VarBinding(binding.var, self.builder_.normalize(call))
        super().visit_var_binding_(binding)

    def _pattern(self, callee: GlobalVar) -> int | None:
        func = self.mod[callee]
        return func.attrs.get("op_pattern") if isinstance(func, tirx.PrimFunc) else None


def _elements(expr: relax.Expr) -> int:
    """Number of elements of a tensor of known shape, 0 of anything else."""
    shape = getattr(expr.ty, "shape", None)
    if shape is None or not all(isinstance(n, (int, tirx.IntImm)) for n in shape):
        return 0
    return math.prod(int(n) for n in shape)
