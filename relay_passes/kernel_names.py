"""Which bindings of the source each kernel computes.

Fusion renames what it groups and merges equal groups, so names are carried across it by value
numbering: a call in the fused module is the source call with the same callee and operands.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterator

from tvm import IRModule, relax
from tvm.ir import GlobalVar
from tvm.ir.expr import GenericConst

from relay_passes.tir_calls import kernel_name


def source_names(before: IRModule, fused: IRModule) -> dict[str, list[str]]:
    """Global name in `fused` -> names of the bindings of `before` that its callers compute.

    `before`: `main` calls TIR functions (`call_tir`); `fused`: the same after FuseOps.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for callee, computed in names_by_call(before, fused):
        names[callee] += computed
    return dict(names)


def names_by_call(before: IRModule, fused: IRModule) -> list[tuple[str, list[str]]]:
    """Callee, and names of the bindings of `before` that it computes, of each kernel call in order.

    The calls are those of `main` in `fused`. Not by variables: two of them may have the same name.
    """
    table: dict[Hashable, deque[relax.Var]] = defaultdict(deque)
    for var, value in _bindings(before["main"]):
        table[_key(value, {})].append(var)
    calls: list[tuple[str, list[str]]] = []
    known: dict[relax.Var, relax.Expr] = {}  # variable of the fused module -> of the source
    several: dict[relax.Var, list[str]] = {}  # variable of several results -> names of its call

    def take(value: relax.Expr, local: dict[relax.Var, relax.Expr]) -> relax.Var | None:
        found = table.get(_key(value, local))
        # Equal calls are equal values: the last one may be taken again.
        return (found.popleft() if len(found) > 1 else found[0]) if found else None

    for var, value in _bindings(fused["main"]):
        callee = value.op if isinstance(value, relax.Call) else None
        if isinstance(callee, GlobalVar):
            func = fused[callee]
            local = {p: known.get(a, a) for p, a in zip(func.params, value.args, strict=True)}
            last = None
            names: list[str] = []
            for inner, inner_value in _bindings(func):
                last = take(inner_value, local)
                if last is not None:
                    local[inner] = last
                    names.append(last.name)
            if last is not None:
                known[var] = last
            calls.append((callee.name_hint, names))
            continue
        source = take(value, known)
        if source is not None:
            known[var] = source
        kernel = kernel_name(value)
        if kernel is not None:
            calls.append((kernel, [] if source is None else [source.name]))
            several[var] = calls[-1][1]
        elif isinstance(value, relax.TupleGetItem) and value.tuple_value in several:
            several[value.tuple_value] += [] if source is None else [source.name]
    return calls


def _bindings(func: relax.Function) -> Iterator[tuple[relax.Var, relax.Expr]]:
    for block in func.body.blocks:
        for binding in block.bindings:
            yield binding.var, binding.value


def _key(value: relax.Expr, local: dict[relax.Var, relax.Expr]) -> Hashable:
    """Equal for two expressions that compute the same from the same source variables."""
    if isinstance(value, relax.Var):
        source = local.get(value, value)
        return source if isinstance(source, relax.Var) else _key(source, {})
    if isinstance(value, GenericConst):
        return ("const", value)
    if isinstance(value, GlobalVar):
        return ("global", value.name_hint)
    if isinstance(value, relax.Call):
        return ("call", _key(value.op, local), tuple(_key(arg, local) for arg in value.args))
    if isinstance(value, relax.Tuple):
        return ("tuple", tuple(_key(field, local) for field in value.fields))
    if isinstance(value, relax.TupleGetItem):
        return ("item", value.index, _key(value.tuple_value, local))
    return ("other", value)
