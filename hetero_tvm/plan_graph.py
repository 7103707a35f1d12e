"""An ONNX model's plan as the graph that the simulator runs: one way for every operator.

The plan says where an operator runs and how it is cut; the cost model says what each part takes
when its device is alone, and how much of it goes through memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from tvm import IRModule, relax

from hetero_tvm.llm_graph import Graph
from hetero_tvm.steps import Load
from relay_passes.op_work import Work, op_work, tensor_args
from relay_passes.plan import OpPlan, Plan
from relay_passes.planner.problem import Choice, Cut, Op, Problem, Waiting
from relay_passes.program import Node, read_program
from relay_passes.sharding import Sharding, argument_cut, is_contiguous, shard_work, shardings
from schedules.cost_model import CostModel


def plan_graph(mod: IRModule, plan: Plan, costs: CostModel, waiting: Waiting) -> Graph:
    """The graph whose operators have the one choice that `plan` made.

    Requires: `plan` is of `mod`, as `relay_passes.place` had it.
    """
    nodes = read_program(mod)
    index = {node.name: i for i, node in enumerate(nodes)}
    makers = {node.var: node.name for node in nodes}
    ops, loads = [], []
    for node, placed in zip(nodes, plan.ops, strict=True):
        assert node.name == placed.name, f"{node.name}: the plan has {placed.name} there"
        work = op_work(node.call)
        choice = _choice(node, placed, work, makers, costs)
        ops.append(
            Op(
                choices=(choice,),
                inputs=tuple(index[name] for name in node.inputs),
                nbytes=work.output_bytes,
                reads_graph_inputs=node.reads_graph_inputs,
                is_output=node.is_output,
            )
        )
        loads.append(({d: _load(node, placed, work, d, costs) for d in choice.us},))
    return Graph(
        problem=Problem(ops=tuple(ops), waiting=waiting),
        names=tuple(node.name for node in nodes),
        loads=tuple(loads),
    )


def _choice(
    node: Node,
    placed: OpPlan,
    work: Work,
    makers: Mapping[relax.Var, str],
    costs: CostModel,
) -> Choice:
    if placed.split is None:
        us = {placed.device: placed.cost_us.get(placed.device, 0.0)}
        return Choice(us=us, reads=(None,) * len(node.inputs))
    cut, sharding = placed.split.cut, _sharding(node, placed)
    reads: dict[str, set[Cut | None]] = {}
    for position, arg in enumerate(tensor_args(node.call)):
        name = makers.get(arg) if isinstance(arg, relax.Var) else None
        if name is not None:
            read = argument_cut(node.call, sharding, cut, position)
            reads.setdefault(name, set()).add(read)
    found = [reads.get(name, {None}) for name in node.inputs]
    gather_us = 0.0
    if not is_contiguous([int(dim) for dim in node.call.ty.shape], cut.axis):
        moved = Work(kind="vector", bytes=2 * work.output_bytes, output_bytes=work.output_bytes)
        gather_us = costs.cost_us(moved, "gpu")
    return Choice(
        us=dict(placed.split_us),
        reads=tuple(next(iter(cuts)) if len(cuts) == 1 else None for cuts in found),
        makes=cut,
        kind=placed.split.kind,
        gather_us=gather_us,
    )


def _sharding(node: Node, placed: OpPlan) -> Sharding:
    assert placed.split is not None
    return next(
        way
        for way in shardings(node.call)
        if (way.axis, way.kind) == (placed.split.axis, placed.split.kind)
    )


def _load(node: Node, placed: OpPlan, work: Work, device: str, costs: CostModel) -> Load:
    """One device's part, alone on the SoC."""
    if placed.split is not None:
        work = shard_work(node.call, work, _sharding(node, placed), placed.split.cut, device)
    if work.kind == "view":
        return Load(0.0, 0.0)
    if device == "npu":  # activations stay on the chip, or cross the region's border
        nbytes = work.weight_bytes
    elif device == "gpu" and work.fuses:  # runs inside its producer's kernel
        nbytes = work.bytes - work.output_bytes
        nbytes -= min(work.output_bytes, nbytes)
    else:
        nbytes = work.bytes
    return Load(costs.cost_us(work, device), float(nbytes))
