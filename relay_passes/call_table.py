"""What the virtual machine calls, in order, and what of the model each call computes.

The trace of a run knows the symbols of kernels and regions. Fusion has renamed and merged what they
compute, and one kernel serves many operators; so the compiler writes down, call by call, which
operators of the plan stand behind it, how much work they are, and which operator's value comes out.

Requires: straight-line functions after `StartNpuEarly`, whose kernels `FuseKernels` has named.
Ensures:  one entry for each call of a kernel or a region, in the order in which they run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Protocol

from tvm import IRModule, relax
from tvm.ir import GenericConst, GlobalVar, Op

from relay_passes.calls import Call, Result, parts_of
from relay_passes.leaves import variables
from relay_passes.lower_cpu import HOST_ATTR
from relay_passes.lower_gpu import CALLS_ATTR, RESULTS_ATTR
from relay_passes.op_work import dtype_bytes, static_shape, tensor_args
from relay_passes.plan import Plan

_KERNEL_CALLS = (Op.get("relax.call_tir"), Op.get("relax.call_tir_inplace"))
_GATHER = "relax.take"  # reads what it picks, not the whole table


class Region(Protocol):
    """What of an NPU region matters here."""

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def weight_bytes(self) -> int: ...  # noqa: D102


def call_table(
    mod: IRModule, function: str, regions: Mapping[str, Region], plan: Plan
) -> tuple[Call, ...]:
    """The calls of one function.

    Args:
        mod: where the function is, in the order in which the virtual machine will run it.
        function: its global name.
        regions: NPU functions by their symbols.
        plan: by which the function was made; says how much work operators are.
    """
    func = mod[function]
    attrs = func.attrs or {}
    names = {str(k): [str(v) for v in vs] for k, vs in attrs.get(CALLS_ATTR, {}).items()}
    results_of = {
        str(call): [[str(name) for name in each] for each in results]
        for call, results in attrs.get(RESULTS_ATTR, {}).items()
    }
    macs, gathers = _work(plan)
    bindings = [binding for block in func.body.blocks for binding in block.bindings]
    fields = _fields(bindings)
    calls: list[Call] = []
    bound: list[tuple[relax.Var, relax.Call]] = []  # of each call
    for binding in bindings:
        var, value = binding.var, getattr(binding, "value", None)
        if not isinstance(value, relax.Call):
            continue
        callee = value.args[0] if value.args else None
        if value.op in _KERNEL_CALLS and isinstance(callee, GlobalVar):
            symbol = callee.name_hint
            device = "cpu" if HOST_ATTR in (mod[callee].attrs or {}) else "gpu"
            # Of the plan: not the changes of layout and the slices that passes have added.
            computed = names.get(var.name, [var.name])
            operators = tuple(name for name in computed if name in macs)
            shapes = _shapes(var.ty)
            of_each = results_of.get(var.name, [list(operators) or [var.name]] * len(shapes))
            results = tuple(
                Result(operator=_value_of(computed, macs), shape=shape)
                for computed, shape, place in zip(of_each, shapes, _in_place(value), strict=True)
                if place < 0  # what is written in place is an argument
            )
        elif value.op == Op.get("relax.call_dps_packed") and _external(callee) in regions:
            symbol, device = _external(callee), "npu"
            operators = regions[symbol].names
            results = tuple(
                Result(operator=name, shape=shape)
                for name, shape in zip(fields.get(var, [var.name]), _shapes(var.ty), strict=True)
            )
        else:
            continue
        bound.append((var, value))
        calls.append(
            Call(
                symbol=symbol,
                device=device,
                operators=operators,
                results=results,
                macs=sum(macs.get(name, 0) for name in operators),
                bytes=_bytes(value, var, gathers=not gathers.isdisjoint(operators))
                + (regions[symbol].weight_bytes if device == "npu" else 0),
            )
        )
    return _with_served(calls, bound, _other_names(bindings))


def _value_of(computed: list[str], macs: Mapping[str, int]) -> str:
    """The last operator of the plan in `computed`, else the last name."""
    return next((name for name in reversed(computed) if name in macs), computed[-1])


def _in_place(call: relax.Call) -> list[int]:
    """Of each result of a kernel the argument that it is, or -1."""
    if call.op == Op.get("relax.call_tir_inplace"):
        return [int(place) for place in call.attrs.inplace_indices]
    return [-1] * len(_shapes(call.ty))


def _with_served(
    calls: list[Call],
    bound: list[tuple[relax.Var, relax.Call]],
    other_names: Mapping[relax.Var, relax.Var],
) -> tuple[Call, ...]:
    """`calls`, those without operators with the one that they serve."""
    reads = [
        {other_names.get(leaf, leaf) for arg in value.args for leaf in variables(arg)}
        for _, value in bound
    ]
    about: dict[relax.Var, str] = {  # a variable -> the operator that it is the value of
        var: call.operators[-1]
        for call, (var, _) in zip(calls, bound, strict=True)
        if call.operators
    }
    served: dict[int, str] = {}
    for position in reversed(range(len(calls))):  # a reader may serve another one itself
        if calls[position].operators:
            continue
        var = bound[position][0]
        for later in range(position + 1, len(calls)):
            if var in reads[later]:
                first = calls[later].operators[:1]
                served[position] = first[0] if first else served.get(later, "")
                break
    for position, call in enumerate(calls):  # a writer of an output: nobody reads it
        if not call.operators and not served.get(position):
            made = [about[leaf] for leaf in reads[position] if leaf in about]
            served[position] = made[0] if made else ""
            about[bound[position][0]] = served[position]
    return tuple(
        dataclasses.replace(call, serves=served.get(position, ""))
        for position, call in enumerate(calls)
    )


def _other_names(bindings: list[relax.Binding]) -> dict[relax.Var, relax.Var]:
    """Views, fields of tuples and the like -> the variable whose bytes they show."""
    shown: dict[relax.Var, relax.Var] = {}
    for binding in bindings:
        value = getattr(binding, "value", None)
        callee = value.args[0] if isinstance(value, relax.Call) and value.args else None
        if isinstance(value, relax.Call) and (
            value.op in _KERNEL_CALLS or isinstance(callee, relax.ExternFunc)
        ):
            continue
        first = next(variables(value), None) if value is not None else None
        if first is not None:
            shown[binding.var] = shown.get(first, first)
    return shown


def _work(plan: Plan) -> tuple[dict[str, int], set[str]]:
    """Multiply-accumulates of every operator and part, and those that look up a table."""
    macs: dict[str, int] = {}
    gathers = set()
    for op in plan.ops:
        parts = parts_of(op)
        macs[op.name] = op.macs
        macs |= {part.name: round(op.macs * part.share) for part in parts}
        if op.op == _GATHER:
            gathers.update([op.name, *(part.name for part in parts)])
    return macs, gathers


def _external(callee: relax.Expr | None) -> str:
    return str(callee.global_symbol) if isinstance(callee, relax.ExternFunc) else ""


def _fields(bindings: list[relax.Binding]) -> dict[relax.Var, list[str]]:
    """Variable of a tuple -> names of its fields in order."""
    found: dict[relax.Var, dict[int, str]] = {}
    for binding in bindings:
        value = getattr(binding, "value", None)
        if isinstance(value, relax.TupleGetItem) and isinstance(value.tuple_value, relax.Var):
            found.setdefault(value.tuple_value, {})[int(value.index)] = binding.var.name
    named = {}
    for var, fields in found.items():
        count = len(var.ty.fields)
        named[var] = [fields.get(i, f"{var.name}[{i}]") for i in range(count)]
    return named


def _shapes(ty: relax.Type) -> list[tuple[int, ...]]:
    return [static_shape(leaf) or () for leaf in _leaves(ty)]


def _leaves(ty: relax.Type) -> Iterator[relax.TensorType]:
    if isinstance(ty, relax.TupleType):
        for field in ty.fields:
            yield from _leaves(field)
    elif isinstance(ty, relax.TensorType):
        yield ty


def _nbytes(ty: relax.TensorType) -> int:
    return math.prod(static_shape(ty) or (0,)) * dtype_bytes(str(ty.dtype))


def _bytes(call: relax.Call, var: relax.Var, *, gathers: bool) -> int:
    written = sum(_nbytes(leaf) for leaf in _leaves(var.ty))
    read = 0
    seen: set[relax.Expr] = set()
    for arg in tensor_args(call):
        if arg in seen:
            continue
        seen.add(arg)
        nbytes = _nbytes(arg.ty)
        read += min(nbytes, written) if gathers and isinstance(arg, GenericConst) else nbytes
    return read + written
