"""How much memory a compiled function has, and which of it is in use at each of its calls.

Read from the program that `PlanMemory` has written, not from what went into it.

Requires: straight-line functions after `PlanMemory`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection

from tvm import IRModule, relax
from tvm.ir import GenericConst, GlobalVar, Op

from relay_passes.leaves import leaves, variables
from relay_passes.op_work import dtype_bytes, static_shape

_STORAGE = Op.get("relax.memory.alloc_storage")
_TENSOR = Op.get("relax.memory.alloc_tensor")
_OUTPUT = Op.get("relax.builtin.alloc_tensor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor, from the call that first touches it to the last one that does."""

    name: str
    nbytes: int
    first: int  # number of the call, from 0
    last: int
    storage: int | None  # which piece of memory it has for that time; None: one of its own


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryTable:
    """The memory of one function; all of `storages` is allocated before its first call."""

    storages: tuple[int, ...]  # bytes of each
    tensors: tuple[Tensor, ...]
    constants: int  # bytes that kernels read, each constant once
    calls: int


def memory_table(mod: IRModule, function: str, regions: Collection[str]) -> MemoryTable:
    """The memory of `function`; `regions`: symbols of the NPU's functions."""
    func = mod[function]
    bindings = [binding for block in func.body.blocks for binding in block.bindings]
    base: dict[relax.Var, relax.Var] = {}  # a view or another name -> what holds its bytes
    storages: dict[relax.Var, int] = {}
    sizes: list[int] = []
    storage_of: dict[relax.Var, int | None] = {}
    used: dict[relax.Var, list[int]] = {}
    constants: dict[GenericConst, int] = {}
    calls = 0
    for binding in bindings:
        var, value = binding.var, binding.value
        op = value.op if isinstance(value, relax.Call) else None
        if op == _STORAGE:
            storages[var] = len(sizes)
            sizes.append(int(value.args[0].values[0]))
        elif op == _TENSOR:
            storage_of[var] = storages[value.args[0]]
        elif op == _OUTPUT:
            storage_of[var] = None
        elif isinstance(op, GlobalVar) or (
            isinstance(op, relax.ExternFunc) and str(op.global_symbol) in regions
        ):
            for leaf in leaves(value):
                if isinstance(leaf, GenericConst):
                    constants[leaf] = _nbytes(leaf.ty)
                    continue
                holder = base.get(leaf, leaf)
                if holder in storage_of:
                    used.setdefault(holder, [calls, calls])[1] = calls
            calls += 1
        else:
            first = next(variables(value), None)
            if first is not None:
                base[var] = base.get(first, first)
    for leaf in leaves(func.body.body):
        holder = base.get(leaf, leaf)
        if holder in used:
            used[holder][1] = max(calls - 1, 0)
    return MemoryTable(
        storages=tuple(sizes),
        tensors=tuple(
            Tensor(
                name=var.name.removesuffix("_memory"),
                nbytes=_nbytes(var.ty),
                first=first,
                last=last,
                storage=storage_of[var],
            )
            for var, (first, last) in used.items()
        ),
        constants=sum(constants.values()),
        calls=calls,
    )


def _nbytes(ty: relax.Type) -> int:
    if isinstance(ty, relax.TupleType):
        return sum(_nbytes(field) for field in ty.fields)
    return math.prod(static_shape(ty) or (0,)) * dtype_bytes(str(ty.dtype))
