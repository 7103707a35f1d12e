"""A plan as it stands, run on the simulator: what is predicted to happen when."""

from __future__ import annotations

from tvm import IRModule

from hetero_tvm import simulation
from hetero_tvm.plan_graph import plan_graph
from hetero_tvm.simulator import Run, simulate
from hetero_tvm.steps import program
from relay_passes.plan import Plan
from schedules.cost_model import CostModel


def plan_run(mod: IRModule, plan: Plan, costs: CostModel, element_bytes: int) -> Run:
    """One run of `plan`, alone on the SoC.

    Args:
        mod: the program that `plan` is of, before any operator is cut.
        plan: is followed; nothing is searched.
        costs: by which it was made.
        element_bytes: of an activation.
    """
    waiting = simulation.waiting_of(costs, fast=True, element_bytes=element_bytes)
    graph = plan_graph(mod, plan, costs, waiting)
    first = [0] * len(graph.names)  # every operator has the one choice that the plan made
    steps = program(graph.problem, first, [ways[0] for ways in graph.loads], graph.names).steps
    return simulate(steps, simulation.machine(costs.spec, waiting))
