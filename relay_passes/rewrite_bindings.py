"""Rewrite a function binding by binding, keeping every binding's name.

Reports, plans and self-checks name a binding by the ONNX node that made it, so a rewrite must not
rename what it does not touch. A rule sees one binding at a time, in order, with its operands
already rewritten, and may look back at what produced them.

Requires: one function of straight-line code in one dataflow block.
Ensures:  surviving bindings keep their names; a new intermediate is called after the binding that
needed it; nothing that no output needs is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

from tvm import IRModule, relax
from tvm.ir import GenericConst

from relay_passes.leaves import variables

Rule = Callable[[relax.Var, relax.Expr, "Bindings"], relax.Expr | None]
"""(variable, its rewritten value, what is known so far) -> the new value, or None to keep it."""


class Bindings:
    """What the bindings so far hold, and how often each variable is read in the old function."""

    def __init__(self, uses: Counter[relax.Var]) -> None:
        self._uses = uses
        self._values: dict[relax.Var, relax.Expr] = {}

    @classmethod
    def of(cls, mod: IRModule) -> Bindings:
        """Everything that `main` binds, to look at it without rewriting."""
        bindings = dataflow_bindings(mod["main"])
        known = cls(Counter(var for b in bindings for var in variables(b.value)))
        for binding in bindings:
            known.record(binding.var, binding.value)
        return known

    def record(self, var: relax.Var, value: relax.Expr) -> None:
        """Remember what `var` is bound to."""
        self._values[var] = value

    def value(self, expr: relax.Expr) -> relax.Expr:
        """What `expr` stands for: a variable's value, or `expr` itself."""
        return self._values.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def call(self, expr: relax.Expr, op: str) -> relax.Call | None:
        """The call of operator `op` behind `expr`, or `None` when it is anything else."""
        value = self.value(expr)
        return value if is_call(value, op) else None

    def is_read_once(self, expr: relax.Expr) -> bool:
        """Is this variable read by exactly one binding, and not an output?"""
        return isinstance(expr, relax.Var) and self._uses[expr] == 1


def is_call(expr: relax.Expr, op: str) -> bool:
    """Is `expr` a call of the Relax operator `op`, for example `relax.add`?"""
    return isinstance(expr, relax.Call) and getattr(expr.op, "name", None) == op


def dataflow_bindings(func: relax.Function) -> list[relax.VarBinding]:
    """All bindings of `func` in order.

    Requires: straight-line code; a `MatchCast` or a nested function is a caller's bug.
    """
    return [binding for block in func.body.blocks for binding in block.bindings]


def rewrite_main(
    mod: IRModule, rule: Rule, params: Mapping[relax.Var, relax.Var] = MappingProxyType({})
) -> IRModule:
    """`mod` with `rule` applied once to every binding of `main`, and dead bindings removed.

    `params`: parameters that others take the place of, of whatever type: every binding that reads
    one must then be rewritten by `rule`.
    """
    changed = False

    def noted(var: relax.Var, value: relax.Expr, known: Bindings) -> relax.Expr | None:
        nonlocal changed
        found = rule(var, value, known)
        changed = changed or found is not None
        return found

    rewritten = rebuild_main(mod, noted, params=params)
    return rebuild_main(rewritten, _keep) if changed else rewritten


def rename_main(mod: IRModule, names: dict[relax.Var, str]) -> IRModule:
    """`mod` with the bindings of `main` called as `names` says, and dead bindings removed."""
    return rebuild_main(mod, _keep, names)


def _keep(_var: relax.Var, _value: relax.Expr, _known: Bindings) -> None:
    return None


def drop_unread_params(mod: IRModule, kept: Collection[str] = ()) -> IRModule:
    """`mod` without those parameters of `main` that nothing reads, but for those named `kept`."""
    func = mod["main"]
    read = {var for binding in dataflow_bindings(func) for var in variables(binding.value)}
    read.update(variables(func.body.body))
    params = [param for param in func.params if param in read or param.name in kept]
    main = relax.Function(params, func.body, func.ret_ty, func.is_pure, func.attrs)
    result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
    result["main"] = main
    return result


def only_values(mod: IRModule, wanted: Sequence[relax.Var]) -> IRModule:
    """`main` as a function of what `wanted`, variables of it, need; it returns them."""
    func = mod["main"]
    body = relax.SeqExpr(func.body.blocks, relax.Tuple(list(wanted)))
    ret = relax.TupleType([var.ty for var in wanted])
    main = relax.Function(func.params, body, ret, func.is_pure, func.attrs)
    result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
    result["main"] = main
    return drop_unread_params(rewrite_main(result, _keep))


def rebuild_main(
    mod: IRModule,
    rule: Rule,
    names: dict[relax.Var, str] | None = None,
    params: Mapping[relax.Var, relax.Var] = MappingProxyType({}),
) -> IRModule:
    """One pass over `main`; what becomes dead in it stays until the next one."""
    func = mod["main"]
    bindings = dataflow_bindings(func)
    result_vars = list(variables(func.body.body))
    aliases = {b.var: b.value for b in bindings if isinstance(b.value, relax.Var)}
    outputs = {_resolve(var, aliases) for var in result_vars}
    needed = _needed(bindings, result_vars)
    old_uses = Counter(var for b in bindings if b.var in needed for var in variables(b.value))
    # An output has a reader outside the function: never "read once".
    old_uses.update(result_vars * 2)
    mapping: dict[relax.Var, relax.Expr] = {p: params.get(p, p) for p in func.params}
    uses: Counter[relax.Var] = Counter({mapping[p]: old_uses[p] for p in func.params})
    known = Bindings(uses)
    others = {var: other for var, other in mod.functions.items() if var.name_hint != "main"}
    builder = relax.BlockBuilder(IRModule(others))
    attrs = dict(func.attrs.items()) if func.attrs else {}
    with builder.function("main", [mapping[p] for p in func.params], attrs=attrs):
        with builder.dataflow():
            for binding in bindings:
                if binding.var not in needed:
                    continue
                value = builder.normalize(_substitute(binding.value, mapping))
                replaced = rule(binding.var, value, known)
                value = value if replaced is None else replaced
                name = (names or {}).get(binding.var, binding.var.name)
                value = _emit_operands(builder, value, name, known)
                if not isinstance(value, relax.Var | GenericConst):
                    emit = builder.emit_output if binding.var in outputs else builder.emit
                    var = emit(value, name)
                    known.record(var, value)
                    value = var
                mapping[binding.var] = value
                if isinstance(value, relax.Var):
                    uses[value] += old_uses[binding.var]
            result = _substitute(func.body.body, mapping)
            result = _as_outputs(builder, result)
        builder.emit_func_output(result)
    rebuilt = builder.get()
    return rebuilt.with_attrs(mod.attrs) if mod.attrs else rebuilt


def _emit_operands(
    builder: relax.BlockBuilder, value: relax.Expr, name: str, known: Bindings
) -> relax.Expr:
    """Bind the calls nested in `value`, which a rule wrote, under names made from `name`."""
    if not isinstance(value, relax.Call):
        return value
    args = []
    for arg in value.args:
        operand = _emit_operands(builder, arg, name, known)
        if isinstance(operand, relax.Call):
            var = builder.emit(operand, f"{name}_part")
            known.record(var, operand)
            operand = var
        args.append(operand)
    return relax.Call(value.op, args, value.attrs, value.ty_args)


def _as_outputs(builder: relax.BlockBuilder, result: relax.Expr) -> relax.Expr:
    """The function's result, with every variable in it visible outside the block."""
    if isinstance(result, relax.Tuple):
        return relax.Tuple([_as_outputs(builder, field) for field in result.fields])
    if isinstance(result, relax.DataflowVar):
        return builder.emit_output(result)
    return result


def _resolve(var: relax.Var, aliases: dict[relax.Var, relax.Expr]) -> relax.Var:
    while var in aliases:
        var = aliases[var]
    return var


def _needed(bindings: list[relax.VarBinding], roots: list[relax.Var]) -> set[relax.Var]:
    needed = set(roots)
    for binding in reversed(bindings):
        if binding.var in needed:
            needed.update(variables(binding.value))
    return needed


def _substitute(expr: relax.Expr, mapping: dict[relax.Var, relax.Expr]) -> relax.Expr:
    if isinstance(expr, relax.Var):
        return mapping[expr]
    if isinstance(expr, relax.Call):
        args = [_substitute(arg, mapping) for arg in expr.args]
        return relax.Call(expr.op, args, expr.attrs, expr.ty_args)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_substitute(field, mapping) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(_substitute(expr.tuple_value, mapping), expr.index)
    return expr
