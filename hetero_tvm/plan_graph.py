"""An ONNX model's plan as the graph that the simulator runs: one way for every operator.

The plan says where an operator runs and how it is cut; the cost model says what each part takes
when its device is alone, and how much of it goes through memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tvm import IRModule, relax

from hetero_tvm.llm_graph import Graph
from hetero_tvm.steps import Load
from relay_passes.gpu_fusion import kernel_mates
from relay_passes.op_work import Work, tensor_args
from relay_passes.part_work import early_works, part_work, sharding_of
from relay_passes.plan import OpPlan, Plan
from relay_passes.planner.problem import Choice, Cut, Op, Problem, Waiting
from relay_passes.planner.timeline import joins_kernel
from relay_passes.program import Node, read_program
from relay_passes.sharding import argument_cut, is_contiguous
from schedules.cost_model import CostModel


def plan_graph(mod: IRModule, plan: Plan, costs: CostModel, waiting: Waiting) -> Graph:
    """The graph whose operators have the one choice that `plan` made.

    Requires: `plan` is of `mod`, as `relay_passes.place` had it.
    """
    nodes = read_program(mod)
    index = {node.name: i for i, node in enumerate(nodes)}
    makers = {node.var: node.name for node in nodes}
    ops: list[Op] = []
    loads = []
    for node, placed, mates in zip(nodes, plan.ops, kernel_mates(nodes), strict=True):
        assert node.name == placed.name, f"{node.name}: the plan has {placed.name} there"
        work = node.work
        choice = _choice(node, placed, work, makers, costs)
        op = Op(
            choices=(choice,),
            inputs=tuple(index[name] for name in node.inputs),
            nbytes=work.output_bytes,
            reads_graph_inputs=node.reads_graph_inputs,
            is_output=node.is_output,
            mates=mates,
            breaks=node.name in plan.breaks,
        )
        inside = joins_kernel({i: ops[i].choices[0] for i in op.inputs}, op, choice)
        ops.append(op)
        loads.append(({d: _load(node, placed, d, costs, inside) for d in choice.us},))
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
    if placed.early is not None:
        return Choice(
            us={"gpu": placed.part_us("gpu")},
            reads=(None,) * len(node.inputs),
            early=placed.early,
            late_us=placed.early_parts_us[1],
        )
    if placed.split is None:
        us = {placed.device: placed.cost_us.get(placed.device, 0.0)}
        return Choice(us=us, reads=(None,) * len(node.inputs))
    cut, sharding = placed.split.cut, sharding_of(node, placed)
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


def _load(node: Node, placed: OpPlan, device: str, costs: CostModel, inside: bool) -> Load:
    """One device's part, alone on the SoC; `inside` a producer's kernel, or in one of its own."""
    if placed.early is not None:
        parts = [_load_of(part, device, costs, inside) for part in early_works(node, placed)]
        return Load(sum(part.us for part in parts), sum(part.nbytes for part in parts))
    work = part_work(node, placed, device)
    assert work is not None, f"{node.name}: not on the {device}"
    return _load_of(work, device, costs, inside)


def _load_of(work: Work, device: str, costs: CostModel, inside: bool) -> Load:
    work = dataclasses.replace(work, fuses=work.fuses and inside)
    if work.kind == "view":
        return Load(0.0, 0.0)
    if device == "npu":  # activations stay on the chip, or cross the region's border
        nbytes = work.weight_bytes
    elif device == "gpu" and work.fuses:  # runs inside its producer's kernel
        nbytes = work.bytes - work.output_bytes
        nbytes -= min(work.output_bytes, nbytes)
    elif device == "gpu":
        nbytes = costs.gpu_bytes(work)
    else:
        nbytes = work.bytes
    return Load(costs.cost_us(work, device), float(nbytes))
