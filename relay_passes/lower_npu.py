"""Take the NPU regions out of the module and leave calls of the runtime's NPU functions.

    y = npu_region_0(x)                 R.function with Codegen = "hetero_npu"
    ->
    y = R.call_dps_packed("npu_region_0", (x,), out_ty=...)     + an ONNX model for the NPU

The runtime's function of that name is given the inputs, then the outputs, as tensors in place: the
NPU reads and writes the same memory as the other devices.

Requires: regions are private functions of tensors, outlined by `GroupRegions`, called from `main`;
every operator in them passes `npu_support.decline_reason`.
Ensures:  no function with the `Codegen` attribute is left; bindings keep their names; one
`NpuRegion` for each region, in the order of their symbols.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping

import numpy as np
from tvm import IRModule, relax
from tvm.ir import GlobalVar

from relay_passes.constant_file import forget_pages
from relay_passes.npu_onnx import (
    BlockCodes,
    ChooseForm,
    Keep,
    OutsideWeight,
    ProductForm,
    emit_region,
    htp_form,
)
from relay_passes.npu_onnx.graph import shape_of_type
from relay_passes.npu_onnx.product import as_written, by_columns
from relay_passes.npu_support import is_half_inside
from target_specs.spec import NpuSpec

CODEGEN = "hetero_npu"
FindCodes = Callable[[relax.Call], BlockCodes | None]


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """A region's input or output, by its name in the ONNX model."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class NpuRegion:
    """One region as the NPU's compiler takes it."""

    symbol: str  # what the module calls
    onnx: bytes  # static, and self-contained but for `outside`
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ops: tuple[str, ...]  # its Relax operators in order, for messages
    names: tuple[str, ...] = ()  # the bindings that they are, as the plan calls them
    weight_bytes: int = 0  # of the constants in it
    maker: Mapping[str, str] = dataclasses.field(default_factory=dict)  # ONNX node -> its binding
    outside: tuple[OutsideWeight, ...] = ()  # weights that are not in `onnx`


def lower_npu(
    mod: IRModule,
    npu: NpuSpec,
    product_form: ChooseForm | None = None,
    keep: Keep | None = None,
    find_codes: FindCodes = lambda call: None,
) -> tuple[IRModule, tuple[NpuRegion, ...]]:
    """The module without its NPU regions, and the regions as ONNX.

    `product_form` says how matrix products are written; None: as the NPU likes them in general.
    `keep` takes large weights, which then are not in the models, and gives their numbers.
    `find_codes` finds the codes that a product's weight came from, and is asked first.
    """
    found = {
        var: func
        for var, func in mod.functions.items()
        if isinstance(func, relax.Function) and _codegen_of(func) == CODEGEN
    }
    if not found:
        return mod, ()
    symbols = {var: _symbol(var, func) for var, func in found.items()}
    plain = by_columns if keep is not None else as_written
    other = product_form or (htp_form if npu.provider == "qnn" else plain)

    def form(call: relax.Call) -> ProductForm | BlockCodes:
        return find_codes(call) or other(call)

    regions = sorted(
        (_region(symbols[var], func, npu, form, keep) for var, func in found.items()),
        key=lambda region: _natural(region.symbol),
    )
    lowered = _CallRewriter(mod, symbols).transform()
    for var in found:
        del lowered[var]
    return lowered, tuple(regions)


def _codegen_of(func: relax.Function) -> str | None:
    return str(func.attrs["Codegen"]) if func.attrs and "Codegen" in func.attrs else None


def _symbol(var: GlobalVar, func: relax.Function) -> str:
    return str(func.attrs["global_symbol"]) if "global_symbol" in func.attrs else var.name_hint


def _natural(symbol: str) -> list[int | str]:
    """Sorts `npu_region_10` after `npu_region_9`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", symbol)]


def _region(
    symbol: str, func: relax.Function, npu: NpuSpec, form: ChooseForm, keep: Keep | None
) -> NpuRegion:
    model, maker, outside = emit_region(
        func, half_inside=is_half_inside(npu), product_form=form, keep=keep
    )
    results = func.ty.ret.fields if isinstance(func.ty.ret, relax.TupleType) else [func.ty.ret]
    inputs = [_tensor_spec(f"in{i}", param.ty) for i, param in enumerate(func.params)]
    outputs = [_tensor_spec(f"out{i}", ty) for i, ty in enumerate(results)]
    bindings = [binding for block in func.body.blocks for binding in block.bindings]
    calls = [binding for binding in bindings if isinstance(binding.value, relax.Call)]
    serialized = model.SerializeToString()
    forget_pages()  # the model has its own copy of the constants
    return NpuRegion(
        symbol,
        serialized,
        tuple(inputs),
        tuple(outputs),
        ops=tuple(str(binding.value.op.name) for binding in calls),
        names=tuple(str(binding.var.name) for binding in calls),
        weight_bytes=sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        + sum(math.prod(one.shape) * np.dtype(one.dtype).itemsize for one in outside),
        maker=maker,
        outside=outside,
    )


def _tensor_spec(name: str, ty: relax.TensorType) -> TensorSpec:
    return TensorSpec(name, str(ty.dtype), shape_of_type(ty))


@relax.expr_functor.mutator
class _CallRewriter(relax.PyExprMutator):
    """Replaces calls of the regions, in every function that is none."""

    def __init__(self, mod: IRModule, symbols: dict[GlobalVar, str]) -> None:
        super().__init__(mod)
        self._mod = mod
        self._symbols = symbols

    def transform(self) -> IRModule:
        for var, func in self._mod.functions.items():
            if isinstance(func, relax.Function) and var not in self._symbols:
                self.builder_.update_func(var, self.visit_expr(func))
        lowered = self.builder_.get()
        return lowered.with_attrs(self._mod.attrs) if self._mod.attrs else lowered

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, GlobalVar) or call.op not in self._symbols:
            return call
        is_tuple = isinstance(call.ty, relax.TupleType)
        out_ty = list(call.ty.fields) if is_tuple else call.ty
        return relax.op.call_dps_packed(self._symbols[call.op], list(call.args), out_ty)
