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

import tvm
from tvm import IRModule, relax
from tvm.ir.transform import PassContext
from tvm.relax.expr_functor import mutator

from relay_passes.tir_calls import (
    BROADCAST,
    ELEMENTWISE,
    INJECTIVE,
    OUT_ELEMENTWISE_FUSABLE,
    PATTERN,
    PatternMarker,
    callee,
    elements,
)

_SPREADING = (ELEMENTWISE, BROADCAST)


@tvm.transform.module_pass(opt_level=0, name="KeepBroadcastsApart")
class KeepBroadcastsApart:
    """Mark such broadcasts as injective."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """Rewrite the calls in `main`."""
        return _Marker(mod).run()


@mutator
class _Marker(PatternMarker):
    """`open`: variables whose kernel a broadcast could join, contractions and their epilogues."""

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Note what stays open to an epilogue; close it where a broadcast spreads it."""
        call = binding.value
        func = callee(self.mod, call)
        if func is None:
            super().visit_var_binding_(binding)
            return
        pattern = func.attrs.get(PATTERN)
        is_open = [field for field in call.args[1].fields if field in self.open]
        if pattern == OUT_ELEMENTWISE_FUSABLE or (pattern in _SPREADING and is_open):
            self.open.add(binding.var)
        if pattern in _SPREADING and any(elements(x) < elements(call) for x in is_open):
            self.open.discard(binding.var)
            binding = self.marked(binding, INJECTIVE)
        super().visit_var_binding_(binding)
