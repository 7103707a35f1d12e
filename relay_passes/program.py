"""The program as a list of operators with their producers: what placing and grouping look at.

Tuples are not operators. `split` makes one, its fields belong to the same operator; a `concat`
that reads one reads what is in it.
"""

from __future__ import annotations

import dataclasses
import functools

import tvm_ffi
from tvm import IRModule, relax
from tvm.ir import GenericConst

from relay_passes.op_work import Work, op_name, op_work


@tvm_ffi.register_error  # so that it leaves a TVM pass as what it is
class PlacementError(ValueError):
    """The module is not of the shape that import promises: where, and what was expected."""


@dataclasses.dataclass(frozen=True)
class Node:
    """One operator: one call bound to one variable."""

    name: str
    var: relax.Var
    call: relax.Call
    inputs: tuple[str, ...]  # names of the operators whose results it reads, each once
    reads_graph_inputs: bool
    is_output: bool
    feeds_next: bool  # the next operator reads its result, and nobody else does

    @functools.cached_property
    def work(self) -> Work:
        """How much it is, under its own name."""
        return dataclasses.replace(op_work(self.call), name=self.name)


def read_program(mod: IRModule) -> list[Node]:
    """The operators of `main` in program order.

    Requires: one function `main` of straight-line calls; every bound name is unique.
    Ensures:  every operator comes after those it reads.
    """
    main = mod["main"]
    body = main.body
    if not isinstance(body, relax.SeqExpr):
        raise PlacementError("main: expected a sequence of bindings; normalise the module first")
    reader = _Reader(set(main.params))
    drafts: list[tuple[relax.Var, relax.Call, tuple[str, ...], bool]] = []
    seen: set[str] = set()
    for block in body.blocks:
        for binding in block.bindings:
            var, value = binding.var, getattr(binding, "value", None)
            if not isinstance(value, relax.Call):
                reader.alias(var, value)
                continue
            if var.name in seen:
                raise PlacementError(f"main: two operators are named {var.name!r}")
            seen.add(var.name)
            makers, from_inputs = reader.sources(value)
            drafts.append((var, value, makers, from_inputs))
            reader.made_by[var] = ((var.name,), False)
    outputs = set(reader.sources(body.body)[0])
    readers: dict[str, list[int]] = {name: [] for name in seen}
    for number, (_, _, inputs, _) in enumerate(drafts):
        for name in inputs:
            readers[name].append(number)
    return [
        Node(
            name=var.name,
            var=var,
            call=call,
            inputs=inputs,
            reads_graph_inputs=from_inputs,
            is_output=var.name in outputs,
            feeds_next=var.name not in outputs and readers[var.name] == [number + 1],
        )
        for number, (var, call, inputs, from_inputs) in enumerate(drafts)
    ]


class _Reader:
    """Which operators stand behind an expression, through tuples and aliases."""

    def __init__(self, params: set[relax.Var]) -> None:
        self.params = params
        self.made_by: dict[relax.Var, tuple[tuple[str, ...], bool]] = {}

    def alias(self, var: relax.Var, value: relax.Expr | None) -> None:
        """A binding that computes nothing: a tuple, a field of one, another name."""
        plain = (relax.Tuple, relax.TupleGetItem, relax.Var, GenericConst, relax.ShapeExpr)
        if not isinstance(value, plain):
            what = type(value).__name__ if value is not None else "match_cast"
            raise PlacementError(f"main: {var.name} is bound to a {what}, expected an operator")
        self.made_by[var] = self.sources(value)

    def sources(self, expr: relax.Expr) -> tuple[tuple[str, ...], bool]:
        """Names of the operators behind `expr`, and whether it reads the model's inputs."""
        if isinstance(expr, relax.Var):
            return ((), True) if expr in self.params else self.made_by[expr]
        parts: list[relax.Expr] = []
        if isinstance(expr, relax.Call):
            parts = list(expr.args)
        elif isinstance(expr, relax.Tuple):
            parts = list(expr.fields)
        elif isinstance(expr, relax.TupleGetItem):
            parts = [expr.tuple_value]
        names: dict[str, None] = {}
        from_inputs = False
        for part in parts:
            makers, inputs = self.sources(part)
            names.update(dict.fromkeys(makers))
            from_inputs = from_inputs or inputs
        return tuple(names), from_inputs


def describe(node: Node) -> str:
    """`relax.matmul as encoder_matmul_3`, for messages."""
    return f"{op_name(node.call)} as {node.name}"
