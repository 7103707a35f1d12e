"""Apply shape changes of constants at compile time.

    f(const)  ->  const     f: reshape, permute_dims, expand_dims, squeeze, astype

TVM's FoldConstant does the same after legalisation, but compiles and runs a function per shape;
here it is a view in NumPy, done before the passes that look for constant weights.

Requires: nothing.
Ensures:  no such operator on a constant is left in `main`; types unchanged.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import Op
from tvm.ir.expr import GenericConst
from tvm.ir.transform import PassContext
from tvm.relax.expr_functor import PyExprMutator, mutator

from relay_passes.constant_file import held_constant
from relay_passes.constants import values_of


@tvm.transform.module_pass(opt_level=0, name="FoldConstantViews")
class FoldConstantViews:
    """Replace a view of a constant by the constant it is."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """Rewrite `main`."""
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        folded = _Folder(mod).visit_expr(mod["main"])
        result["main"] = relax.analysis.remove_all_unused(folded)
        return result


@mutator
class _Folder(PyExprMutator):
    def __init__(self, mod: IRModule) -> None:
        super().__init__(mod)
        self.constants: dict[relax.Var, GenericConst] = {}

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Remember a folded value in place of emitting its binding."""
        folded = self._fold(binding.value)
        if folded is None:
            super().visit_var_binding_(binding)
        elif isinstance(binding.var, relax.DataflowVar):
            self.constants[binding.var] = folded
        else:
            super().visit_var_binding_(relax.VarBinding(binding.var, folded))

    def visit_dataflow_var_(self, var: relax.DataflowVar) -> relax.Expr:
        """A folded variable is its constant."""
        return self.constants.get(var) or super().visit_dataflow_var_(var)

    def _fold(self, value: relax.Expr) -> GenericConst | None:
        if isinstance(value, GenericConst):
            return value
        if not isinstance(value, relax.Call) or value.op not in _FOLDS or not _is_tensor(value):
            return None
        source = value.args[0]
        constant = self.constants.get(source) if isinstance(source, relax.Var) else source
        if not isinstance(constant, GenericConst):
            return None
        array = _FOLDS[value.op](values_of(constant), value)
        folded = np.ascontiguousarray(array).reshape(array.shape)
        dtype = str(value.ty.dtype)
        return held_constant(folded) if folded.dtype.name == dtype else relax.const(folded, dtype)


def _is_tensor(value: relax.Call) -> bool:
    shape = getattr(value.ty, "shape", None)
    return shape is not None and all(isinstance(n, (int, tirx.IntImm)) for n in shape)


def _reshape(array: np.ndarray, call: relax.Call) -> np.ndarray:
    return array.reshape([int(n) for n in call.ty.shape])


def _permute(array: np.ndarray, call: relax.Call) -> np.ndarray:
    axes = call.attrs.axes
    return array.transpose(None if axes is None else [int(axis) for axis in axes])


def _cast(array: np.ndarray, call: relax.Call) -> np.ndarray:
    return array.astype(str(call.ty.dtype))


_FOLDS: dict[Op, Callable[[np.ndarray, relax.Call], np.ndarray]] = {
    Op.get("relax.reshape"): _reshape,
    Op.get("relax.expand_dims"): _reshape,
    Op.get("relax.squeeze"): _reshape,
    Op.get("relax.permute_dims"): _permute,
    Op.get("relax.astype"): _cast,
}
