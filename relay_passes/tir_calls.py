"""Calls of TIR functions in Relax: what is one, what it calls, and rewriting what it calls.

y = call_tir(kernel, (x,), out_ty=...)
"""

from __future__ import annotations

import math
from typing import Any

import tvm
import tvm_ffi
from tvm import IRModule, relax, tirx
from tvm.ir import GlobalVar
from tvm.relax.expr_functor import PyExprMutator

# TVM's fusion patterns of kernels.
ELEMENTWISE, BROADCAST, INJECTIVE, OUT_ELEMENTWISE_FUSABLE, OPAQUE = 0, 1, 2, 4, 8
PATTERN = "op_pattern"  # the attribute of a function that holds it


def is_call_tir(value: relax.Expr) -> bool:
    """Whether `value` calls a TIR function of the module."""
    return (
        isinstance(value, relax.Call)
        and value.op == tvm.ir.Op.get("relax.call_tir")
        and isinstance(value.args[0], GlobalVar)
    )


def kernel_name(value: relax.Expr) -> str | None:
    """Global name of the TIR function that `value` calls, in place or not; None for others."""
    if not isinstance(value, relax.Call) or not len(value.args):
        return None
    named = value.args[0]
    return str(named.name_hint) if isinstance(named, GlobalVar) else None


def callee(mod: IRModule, value: relax.Expr) -> tirx.PrimFunc | None:
    """The kernel that a `call_tir` calls; None for anything else."""
    func = mod[value.args[0]] if is_call_tir(value) else None
    return func if isinstance(func, tirx.PrimFunc) else None


class StoredParams:
    """The parameters that kernels of a module write: results, and what they change in place."""

    def __init__(self, mod: IRModule) -> None:
        self._mod = mod
        self._found: dict[GlobalVar, frozenset[int]] = {}  # each kernel is looked into once

    def of(self, called: relax.Expr) -> frozenset[int]:
        """Numbers of parameters; nothing of what is no kernel, which shows its writes itself."""
        if not isinstance(called, GlobalVar):
            return frozenset()
        if called not in self._found:
            func = self._mod[called]
            is_kernel = isinstance(func, tirx.PrimFunc)
            self._found[called] = _stored_params(func) if is_kernel else frozenset()
        return self._found[called]


def _stored_params(func: tirx.PrimFunc) -> frozenset[int]:
    stored: set[tirx.Var] = set()

    def visit(store: Any) -> None:
        stored.add(store.buffer)  # by identity: two buffers may have one name

    tvm_ffi.structural_walk(func.body, (tirx.BufferStore, visit))
    return frozenset(n for n, param in enumerate(func.params) if param in stored)


def elements(expr: relax.Expr) -> int:
    """Number of elements of a tensor of known shape, 0 of anything else."""
    shape = getattr(expr.ty, "shape", None)
    if shape is None or not all(isinstance(n, (int, tirx.IntImm)) for n in shape):
        return 0
    return math.prod(int(n) for n in shape)


class PatternMarker(PyExprMutator):
    """Walks `main`, and gives calls copies of their kernels with another fusion pattern.

    A subclass, which must be a `mutator`, overrides `visit_var_binding_`. `open` is for it to note
    the variables in whose kernel a follower could run.
    """

    def __init__(self, mod: IRModule) -> None:
        super().__init__(mod)
        self.mod = mod
        self.open: set[relax.Var] = set()

    def run(self) -> IRModule:
        """The module with a rewritten `main`; its functions are copied, not changed."""
        main = self.visit_expr(self.mod["main"])
        result = self.builder_.get()
        result["main"] = main
        return result

    def marked(self, binding: relax.VarBinding, pattern: int) -> relax.VarBinding:
        """The binding, of a `call_tir`, to a call of a kernel that has `pattern`."""
        call = binding.value
        kernel, *rest = call.args
        func = self.mod[kernel].with_attr(PATTERN, pattern)
        copy = self.builder_.add_func(func, kernel.name_hint)
        again = relax.Call(call.op, [copy, *rest], call.attrs, call.ty_args)
        return relax.VarBinding(binding.var, self.builder_.normalize(again))
