"""Store a float32 model's weights and activations as float16.

    main(x: f32) = op(x, w: f32)  ->  main(x: f32) = astype(op(astype(x, f16), w: f16), f32)

Half the bytes of every tensor between kernels. It is a storage format: contractions, softmax,
norms and reductions accumulate in float32 by their legalisation, and the arithmetic inside a fused
kernel is float32 unless the device is known to compute in half (`schedules.store_half`).

Constants that float16 cannot hold are clamped to its largest value, and those it would round to
zero become its smallest: a mask's -1e30 stays "very negative", a norm's 1e-12 stays positive.

Requires: one function `main` of straight-line code in one dataflow block, static shapes.
Ensures:  types of `main`'s inputs and outputs unchanged; every other float32 tensor is float16,
          but operands and results of calls into TIR functions; operators keep their names.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import IRModule, relax
from tvm.ir import GenericConst, Op
from tvm.ir.transform import PassContext

from relay_passes.constants import values_of

_HALF, _SINGLE = "float16", "float32"
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)


@tvm.transform.module_pass(opt_level=0, name="ToHalf")
class ToHalf:
    """Rewrite `main`; other functions stay as they are."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """The module with float16 between its operators."""
        others = {var: func for var, func in mod.functions.items() if var.name_hint != "main"}
        rebuilt = _Rebuilder(IRModule(others)).rebuild(mod["main"])
        return rebuilt.with_attrs(mod.attrs) if mod.attrs else rebuilt


class _Rebuilder:
    """Emits `main` again, binding by binding, each value in its new type."""

    def __init__(self, others: IRModule) -> None:
        self.builder = relax.BlockBuilder(others)
        self.values: dict[relax.Var, relax.Expr] = {}  # old variable -> new value
        self.tuples: dict[relax.Var, relax.Tuple] = {}  # old variable -> the tuple it names

    def rebuild(self, func: relax.Function) -> IRModule:
        """The module with the new `main`."""
        params = [relax.Var(param.name, param.ty) for param in func.params]
        attrs = dict(func.attrs) if func.attrs else None
        with self.builder.function("main", params, attrs=attrs):
            with self.builder.dataflow():
                for old, new in zip(func.params, params, strict=True):
                    self.values[old] = self._cast(new, _HALF, f"{new.name}_half")
                for block in func.body.blocks:
                    for binding in block.bindings:
                        self.values[binding.var] = self._emit(binding)
                result = self._output(func.body.body)
            self.builder.emit_func_output(result)
        return self.builder.get()

    def _emit(self, binding: relax.VarBinding) -> relax.Expr:
        name, value = binding.var.name, binding.value
        if not isinstance(value, relax.Call):
            if isinstance(value, relax.Tuple):
                self.tuples[binding.var] = value
            new = self._operand(value)
            plain = isinstance(new, relax.Var | GenericConst)
            return new if plain else self.builder.emit(new, name)
        if value.op == _CALL_TIR:  # a function's types are fixed
            return self._cast(self.builder.emit(self._typed_call(value), name), _HALF, name)
        if value.op == _ASTYPE and str(value.ty.dtype) == _SINGLE:
            source = self._operand(value.args[0])
            return self._cast(source, _HALF, name, rename=True)
        args = [self._operand(arg) for arg in value.args]
        call = relax.Call(value.op, args, _half_attrs(value), value.ty_args)
        return self._cast(self.builder.emit(call, name), _HALF, name)

    def _typed_call(self, call: relax.Call) -> relax.Call:
        """A `call_tir` on operands of the types that its function was written for."""
        callee, operands, *rest = call.args
        typed = [
            self._cast(self._operand(old), _dtype(old) or "", "operand") for old in operands.fields
        ]
        return relax.Call(call.op, [callee, relax.Tuple(typed), *rest], call.attrs, call.ty_args)

    def _operand(self, expr: relax.Expr) -> relax.Expr:
        """`expr` in the new function."""
        if isinstance(expr, relax.Var):
            return self.values[expr]
        if isinstance(expr, GenericConst) and _dtype(expr) == _SINGLE:
            return relax.const(_round(values_of(expr)), _HALF)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._operand(field) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self._operand(expr.tuple_value), expr.index)
        return expr

    def _cast(
        self, value: relax.Expr, dtype: str, name: str, *, rename: bool = False
    ) -> relax.Expr:
        """`value` as `dtype` if it is the other of the two float types; else `value`."""
        source = _dtype(value)
        floats = {source, dtype} == {_HALF, _SINGLE}
        if not floats and not (rename and source is not None and source != dtype):
            return value
        return self.builder.emit(relax.op.astype(value, dtype), name)

    def _output(self, result: relax.Expr) -> relax.Expr:
        """The function's result in the types that it had."""
        result = self.tuples.get(result, result) if isinstance(result, relax.Var) else result
        if isinstance(result, relax.Tuple):
            return relax.Tuple([self._output(field) for field in result.fields])
        value = self._operand(result)
        dtype = _dtype(result)
        name = result.name if isinstance(result, relax.Var) else "result"
        if dtype == _SINGLE and _dtype(value) == _HALF:
            return self.builder.emit_output(relax.op.astype(value, _SINGLE), f"{name}_single")
        return self.builder.emit_output(value, f"{name}_output")


_CALL_TIR = Op.get("relax.call_tir")
_ASTYPE = Op.get("relax.astype")


def _dtype(expr: relax.Expr) -> str | None:
    """The element type of a tensor, None of anything else."""
    return str(expr.ty.dtype) if isinstance(expr.ty, relax.TensorType) else None


def _half_attrs(call: relax.Call) -> tvm.ir.Attrs | None:
    """The call's attributes, asking for float16 where they asked for float32."""
    attrs = call.attrs
    if attrs is None:
        return None
    info = type(attrs).__tvm_ffi_type_info__
    names = [field.name for field in info.fields]
    for key in ("out_dtype", "dtype"):
        if key in names and str(getattr(attrs, key)) == _SINGLE:
            fields = {name: getattr(attrs, name) for name in names}
            return tvm.ir.make_node(info.type_key, **{**fields, key: _HALF})
    return attrs


def _round(value: np.ndarray) -> np.ndarray:
    half = np.clip(value, -_LARGEST, _LARGEST).astype(np.float16)
    vanished = (half == 0) & (value != 0)
    return np.where(vanished, np.copysign(np.float16(_SMALLEST), value), half).astype(np.float16)
