"""Decide where every operator runs: NPU, GPU, or for what neither takes the CPU.

Costs decide, through minimum cuts (`solve_placement`). Views cost nothing and follow their
neighbours. A hand-over is paid per wait, so a lone cheap operator never makes a region of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from tvm import IRModule, relax

from relay_passes.op_work import VIEWS, Work, op_name, op_work
from relay_passes.plan import OpPlan, Plan
from relay_passes.program import Node, read_program
from relay_passes.solve_placement import Handover, Op, cheapest, elapsed_us

Declined = Callable[[relax.Call, str], str | None]  # None: the device takes it, else why not
Cost = Callable[[Work, str], float]  # µs of the operator alone on the device
_BOTH = ("gpu", "npu")


def place(
    mod: IRModule,
    declined: Declined,
    cost_us: Cost,
    handover_us: Handover,
    devices: Collection[str] = _BOTH,
    unfit: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """The plan with the least predicted time.

    `devices` restricts it: with one device, whatever that device takes goes to it, what it
    declines to the other one if that takes it, and the rest to the CPU. `unfit` names operators
    that the NPU must not get for a reason that only their surroundings show, such as precision.

    Requires: `mod` as import leaves it; see `read_program`.
    Ensures:  `predicted_us` is at most every entry of `alternatives_us` when `devices` is both.
    """
    assert devices and set(devices) <= set(_BOTH), devices
    nodes = read_program(mod)
    refused = [_refusals(node, declined, unfit) for node in nodes]
    works = [op_work(node.call) for node in nodes]
    costs = [
        {device: cost_us(work, device) for device in _able(refusals)}
        for work, refusals in zip(works, refused, strict=True)
    ]
    solutions: dict[str, tuple[list[str], float, float]] = {}
    for name, allowed in {"gpu": ("gpu",), "npu": ("npu",), "both": _BOTH}.items():
        ops = _problem(nodes, works, costs, allowed)
        singles = [solution for solution, *_ in solutions.values()]
        solution = cheapest(ops, handover_us, singles if name == "both" else ())
        solutions[name] = (solution, *elapsed_us(ops, solution, handover_us))
    chosen, work, moves = solutions["both" if set(devices) == set(_BOTH) else next(iter(devices))]
    crossing = min(handover_us("gpu", "npu", 0), handover_us("npu", "gpu", 0))
    return Plan(
        ops=tuple(
            OpPlan(
                name=node.name,
                op=op_name(node.call),
                device=device,
                reason=_reason(device, cost, refusals, devices, crossing),
                cost_us=cost,
                declined=refusals,
                macs=work.macs,
            )
            for node, work, device, cost, refusals in zip(
                nodes, works, chosen, costs, refused, strict=True
            )
        ),
        predicted_us=work + moves,
        handover_us=moves,
        alternatives_us={name: sum(solutions[name][1:]) for name in _BOTH},
    )


def _refusals(node: Node, declined: Declined, unfit: Mapping[str, str]) -> dict[str, str]:
    reasons = {device: declined(node.call, device) for device in _BOTH}
    reasons["npu"] = reasons["npu"] or unfit.get(node.name)
    return {device: reason for device, reason in reasons.items() if reason is not None}


def _able(refusals: dict[str, str]) -> list[str]:
    return [device for device in _BOTH if device not in refusals] or ["cpu"]


def _problem(
    nodes: list[Node],
    works: list[Work],
    costs: list[dict[str, float]],
    allowed: tuple[str, ...],
) -> list[Op]:
    index = {node.name: i for i, node in enumerate(nodes)}
    return [
        Op(
            cost_us=_restrict(node, cost, allowed),
            inputs=tuple(index[name] for name in node.inputs),
            nbytes=work.output_bytes,
            reads_graph_inputs=node.reads_graph_inputs,
            is_output=node.is_output,
        )
        for node, work, cost in zip(nodes, works, costs, strict=True)
    ]


def _restrict(node: Node, cost: dict[str, float], allowed: tuple[str, ...]) -> dict[str, float]:
    """The operator's choices when only `allowed` is asked for; views may follow anyone."""
    if op_name(node.call) in VIEWS and allowed != ("gpu",):
        return cost
    return {d: us for d, us in cost.items() if d in allowed} or cost


def _reason(
    device: str,
    cost: dict[str, float],
    refusals: dict[str, str],
    devices: Collection[str],
    crossing: float,
) -> str:
    if device == "cpu":
        return "cpu: " + "; ".join(f"{d.upper()} declines: {why}" for d, why in refusals.items())
    other = "npu" if device == "gpu" else "gpu"
    if other in refusals:
        return f"{device}: {other.upper()} declines: {refusals[other]}"
    mine, theirs = cost[device], cost[other]
    if mine == theirs == 0:
        return f"{device}: a view, stays with its neighbours"
    if other not in devices:
        return f"{device}: the only device asked for"
    against = f"{_format(mine)} µs against {_format(theirs)} µs on the {other}"
    if mine < theirs:
        return f"{device}: {against}"
    return f"{device}: stays with its neighbours ({against}), a hand-over costs {crossing:.0f} µs"


def _format(us: float) -> str:
    return f"{us:.0f}" if us >= 10 else f"{us:.1f}"
