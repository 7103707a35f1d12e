"""Outline the NPU's operators into regions: private functions that the NPU runs as one unit.

Which operators make one region is the planner's business (`planner.timeline`): a region ends where
another device waits for it, so no region depends on itself.

Requires: one function `main` of straight-line calls; a region for every operator on the NPU.
Ensures:  every operator on the NPU is in a private function with the attributes
          `Codegen = "hetero_npu"` and `global_symbol = "npu_region_<i>"`, numbered in order of
          execution, constants inside, in one dataflow block under its old name; results are
          tensors. `main` stays in topological order, other operators as early as they were;
          what no output needs is gone.
"""

from __future__ import annotations

import collections
import functools
import heapq
from collections.abc import Iterator, Mapping

import tvm
from tvm import IRModule, relax
from tvm.ir.transform import PassContext

from relay_passes.program import Node, PlacementError, read_program

CODEGEN = "hetero_npu"


@tvm.transform.module_pass(opt_level=0, name="GroupRegions")
class GroupRegions:
    """Move the NPU's operators out of `main`, region by region.

    `region`: operator on the NPU -> number of its region; the numbers need no order.
    """

    def __init__(self, region: Mapping[str, int]) -> None:
        self.region = dict(region)

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """Outline; a plan without NPU operators leaves the module as it is."""
        nodes = read_program(mod)
        unknown = sorted(self.region.keys() - {node.name for node in nodes})
        if unknown:
            odd = ", ".join(unknown[:3])
            raise PlacementError(f"the plan is for another program: {odd} differ")
        nodes = _live(nodes)
        groups: dict[int, list[str]] = {}
        for node in nodes:
            if node.name in self.region:
                groups.setdefault(self.region[node.name], []).append(node.name)
        return _Outliner(mod, nodes, list(groups.values())).run() if groups else mod


def _live(nodes: list[Node]) -> list[Node]:
    """Operators that an output needs; a region of others would have no result."""
    wanted = {node.name for node in nodes if node.is_output}
    for node in reversed(nodes):
        if node.name in wanted:
            wanted.update(node.inputs)
    return [node for node in nodes if node.name in wanted]


class _Outliner:
    """Builds the new module; one use.

    `main` keeps its variables: a region's call defines the very variables that its operators
    did. Inside a region they are new ones of the same names.
    """

    def __init__(self, mod: IRModule, nodes: list[Node], regions: list[list[str]]) -> None:
        self.main = mod["main"]
        self.main_var = mod.get_global_var("main")
        self.nodes = {node.name: node for node in nodes}
        self.regions = regions
        self.region_of = {name: i for i, names in enumerate(regions) for name in names}
        self.maker = {node.var: node.name for node in nodes}
        self.alias = _aliases(self.main)
        self.builder = relax.BlockBuilder(mod)
        self.bindings: list[relax.VarBinding] = []  # of the new main
        self.defined: set[relax.Var] = set(self.main.params)

    def run(self) -> IRModule:
        for unit in self._order():
            if isinstance(unit, int):
                self._call_region(unit)
            else:
                self._keep(self.nodes[unit].var, self.nodes[unit].call)
        result = self.main.body.body
        self._need(result)
        body = relax.SeqExpr([relax.DataflowBlock(self.bindings)], result)
        main = relax.Function(self.main.params, body, self.main.ret_ty, True, self.main.attrs)
        main = self.builder.normalize(main)
        mod = self.builder.get()
        mod.update_func(self.main_var, main)
        return mod

    def _order(self) -> list[int | str]:
        """Regions and other operators in topological order, each as near to its old place as
        it can be; a region stands where its first operator stood, so that the NPU starts early.
        """
        place = {name: i for i, name in enumerate(self.nodes)}
        unit_of = {name: self.region_of.get(name, name) for name in self.nodes}
        rank: dict[int | str, int] = {}
        needs: dict[int | str, set[int | str]] = {}
        for name, node in self.nodes.items():
            unit = unit_of[name]
            rank.setdefault(unit, place[name])
            needs.setdefault(unit, set()).update({unit_of[i] for i in node.inputs} - {unit})
        users: dict[int | str, list[int | str]] = {unit: [] for unit in needs}
        for unit, inputs in needs.items():
            for source in inputs:
                users[source].append(unit)
        ready = [(rank[unit], unit) for unit in needs if not needs[unit]]
        heapq.heapify(ready)
        order: list[int | str] = []
        while ready:
            _, unit = heapq.heappop(ready)
            order.append(unit)
            for user in users[unit]:
                needs[user].discard(unit)
                if not needs[user]:
                    heapq.heappush(ready, (rank[user], user))
        assert len(order) == len(needs), "regions wait for one another"
        return order

    def _call_region(self, index: int) -> None:
        symbol = f"npu_region_{index}"
        region = _Region(self, index)
        results = self._results(index)
        function = region.build(results).with_attr({"Codegen": CODEGEN, "global_symbol": symbol})
        for var in region.captured:
            self._need(var)
        call = relax.Call(self.builder.add_func(function, symbol), list(region.captured))
        call = self.builder.normalize(call)
        if len(results) == 1:
            self._keep(results[0], call)
            return
        together = relax.DataflowVar(symbol, call.ty)
        self._keep(together, call)
        for i, var in enumerate(results):
            self._keep(var, relax.TupleGetItem(together, i))

    def _results(self, index: int) -> list[relax.Var]:
        """Variables made inside region `index` and read outside, in program order."""
        return [var for var in self._made[index] if self._readers[var] - {index}]

    @functools.cached_property
    def _readers(self) -> dict[relax.Var, set[int | None]]:
        """The regions that read each variable; None: an operator outside, or the caller."""
        readers: dict[relax.Var, set[int | None]] = collections.defaultdict(set)
        for var in self.leaves(self.main.body.body):
            readers[var].add(None)
        for name, node in self.nodes.items():
            for var in self.leaves(node.call):
                readers[var].add(self.region_of.get(name))
        return readers

    @functools.cached_property
    def _made(self) -> dict[int, list[relax.Var]]:
        """The variables that each region makes, in program order."""
        made: dict[int, list[relax.Var]] = collections.defaultdict(list)
        for var in [*self.maker, *self.alias]:
            owner = self.owner(var)
            if owner is not None:
                made[owner].append(var)
        return made

    def owner(self, var: relax.Var) -> int | None:
        """The region whose operator makes `var`, or makes the tuple that it is a field of."""
        if var in self.maker:
            return self.region_of.get(self.maker[var])
        value = self.alias.get(var)
        if isinstance(value, relax.TupleGetItem):
            return self.owner(value.tuple_value)
        return None

    def leaves(self, expr: relax.Expr) -> Iterator[relax.Var]:
        """Variables of tensors that `expr` reads: inputs, operators' results, fields of those."""
        if isinstance(expr, relax.Call):
            for arg in expr.args:
                yield from self.leaves(arg)
        elif isinstance(expr, relax.Tuple):
            for field in expr.fields:
                yield from self.leaves(field)
        elif isinstance(expr, relax.Var):
            value = self.alias.get(expr)
            if value is None or isinstance(value, relax.TupleGetItem):
                if isinstance(expr.ty, relax.TupleType) and self.owner(expr) is not None:
                    raise PlacementError(f"main: {expr.name}, a tuple, is read as a whole")
                yield expr
            else:
                yield from self.leaves(value)

    def _need(self, expr: relax.Expr) -> None:
        """Define the aliases that `expr` reads, as late as here."""
        if isinstance(expr, relax.Call):
            for arg in expr.args:
                self._need(arg)
        elif isinstance(expr, relax.Tuple):
            for field in expr.fields:
                self._need(field)
        elif isinstance(expr, relax.TupleGetItem):
            self._need(expr.tuple_value)
        elif isinstance(expr, relax.Var) and expr not in self.defined:
            self._keep(expr, self.alias[expr])

    def _keep(self, var: relax.Var, value: relax.Expr) -> None:
        self._need(value)
        self.bindings.append(relax.VarBinding(var, value))
        self.defined.add(var)


class _Region:
    """One function: copies of a region's operators over its own variables."""

    def __init__(self, outliner: _Outliner, index: int) -> None:
        self.outliner = outliner
        self.index = index
        self.captured: dict[relax.Var, relax.Var] = {}  # variable of main -> parameter
        self.copies: dict[relax.Var, relax.Var] = {}
        self.bindings: list[relax.VarBinding] = []

    def build(self, results: list[relax.Var]) -> relax.Function:
        direct = results[0] if len(results) == 1 else None
        for name in self.outliner.regions[self.index]:
            node = self.outliner.nodes[name]
            self._bind(node.var, self._copy(node.call), is_result=node.var is direct)
        if direct is not None:
            output = self._copy(direct)
            if isinstance(output, relax.DataflowVar):  # a field of a tuple
                output = self._emit(relax.Var(direct.name, output.ty), output)
        else:
            packed = relax.Tuple([self._copy(var) for var in results])
            output = self._emit(relax.Var(f"npu_region_{self.index}_results", packed.ty), packed)
        body = relax.SeqExpr([relax.DataflowBlock(self.bindings)], output)
        function = relax.Function(list(self.captured.values()), body, output.ty, is_pure=True)
        return self.outliner.builder.normalize(function)

    def _copy(self, expr: relax.Expr) -> relax.Expr:
        """`expr` over the region's own variables."""
        if isinstance(expr, relax.Call):
            args = [self._copy(arg) for arg in expr.args]
            call = relax.Call(expr.op, args, expr.attrs, list(expr.ty_args), expr.span)
            return self.outliner.builder.normalize(call)
        if isinstance(expr, relax.Tuple):
            return self.outliner.builder.normalize(
                relax.Tuple([self._copy(field) for field in expr.fields])
            )
        if isinstance(expr, relax.Var):
            return self._variable(expr)
        return expr

    def _variable(self, var: relax.Var) -> relax.Expr:
        if var in self.copies:
            return self.copies[var]
        value = self.outliner.alias.get(var)
        if isinstance(value, relax.TupleGetItem) and self.outliner.owner(var) == self.index:
            field = relax.TupleGetItem(self._copy(value.tuple_value), value.index)
            return self._bind(var, self.outliner.builder.normalize(field), is_result=False)
        if value is not None and not isinstance(value, relax.TupleGetItem):
            return self._copy(value)
        if var not in self.captured:
            self.captured[var] = relax.Var(var.name, var.ty)
        return self.captured[var]

    def _bind(self, var: relax.Var, value: relax.Expr, is_result: bool) -> relax.Var:
        kind = relax.Var if is_result else relax.DataflowVar
        self.copies[var] = self._emit(kind(var.name, value.ty), value)
        return self.copies[var]

    def _emit(self, var: relax.Var, value: relax.Expr) -> relax.Var:
        self.bindings.append(relax.VarBinding(var, value))
        return var


def _aliases(main: relax.Function) -> dict[relax.Var, relax.Expr]:
    """Bindings that compute nothing: tuples, their fields, other names."""
    found: dict[relax.Var, relax.Expr] = {}
    for block in main.body.blocks:
        if not isinstance(block, relax.DataflowBlock) and len(block.bindings):
            raise PlacementError("main: expected dataflow blocks only")
        for binding in block.bindings:
            if not isinstance(binding.value, relax.Call):
                found[binding.var] = binding.value
    return found
