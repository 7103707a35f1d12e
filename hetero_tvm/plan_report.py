"""A plan explained: every operator's time on every device, and both devices against either alone.

Nothing is compiled; the pipeline runs as far as `build --plan-only` does. The NPU regions of the
plan are made only where the vendor's estimate of them is asked for.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetero_tvm import compiler, pipeline, plan_regions
from hetero_tvm.config import BuildConfig
from hetero_tvm.errors import BadInput
from hetero_tvm.progress import Progress
from relay_passes.op_work import op_work
from relay_passes.plan import DEVICES, Plan
from relay_passes.program import Node, read_program
from relay_passes.solve_placement import Move, Op, moves
from schedules.cost_model import CostModel
from schedules.npu_estimate import EstimateUnavailable, proxy_for
from schedules.npu_profile import NoEstimate
from target_specs.spec import Origin

MODES = ("gpu", "npu", "gpu+npu")  # the simplest first
MODELLED = "modelled"  # computed by the roofline from the spec's figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Handover:
    """All tensors that go from one device to another; no bytes are copied for it."""

    source: str  # "cpu" for the model's inputs too
    target: str  # "cpu" for the model's outputs too
    waits: int  # times that one device waits for the other
    tensors: int
    nbytes: int  # of operators' results; the model's inputs and outputs are not counted
    us: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mode:
    """The best plan with the devices of one `--devices`."""

    plan: Plan
    handovers: tuple[Handover, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        placed = [op.device for op in self.plan.ops]
        return {
            "predicted_us": self.plan.predicted_us,
            "provenance": MODELLED,
            "operators": {device: placed.count(device) for device in DEVICES},
            "device_us": self.plan.device_us,
            "macs": self.plan.macs,
            "handover_us": self.plan.handover_us,
            "handovers": [dataclasses.asdict(handover) for handover in self.handovers],
            "waits": sum(handover.waits for handover in self.handovers),
            "handed_over_tensors": sum(handover.tensors for handover in self.handovers),
            "handed_over_bytes": sum(handover.nbytes for handover in self.handovers),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanReport:
    """All that the verb says."""

    model: Path
    target: str
    dtype: str
    devices: str  # the mode that was asked for
    modes: Mapping[str, Mode]
    figures: tuple[Origin, ...]  # of the spec, that predictions rest on
    figure_of: Mapping[tuple[str, str], int]  # operator, device -> index in `figures`
    node_of: Mapping[str, str]
    regions: tuple[plan_regions.Region, ...] | None  # None: no estimate was asked for
    seconds: float

    @property
    def plan(self) -> Plan:
        """The plan that a build with these flags follows."""
        return self.modes[self.devices].plan

    @property
    def best(self) -> str:
        """The mode with the least predicted time; of those equal to 0.01 µs the simplest."""
        return min(MODES, key=lambda name: round(self.modes[name].plan.predicted_us, 2))

    @property
    def with_estimates_us(self) -> float | None:
        """The plan's time with every region's estimate in place of its prediction."""
        if not self.regions:
            return None
        total = self.plan.predicted_us
        for region in self.regions:
            if isinstance(region.estimate, NoEstimate):
                return None
            total += region.estimate.us - region.predicted_us
        return total

    def to_dict(self) -> dict[str, Any]:
        """As plain data, the `--json` of the verb."""
        return {
            "model": str(self.model),
            "target": self.target,
            "dtype": self.dtype,
            "devices": self.devices,
            "figures": [dataclasses.asdict(figure) for figure in self.figures],
            "operators": [
                {
                    "name": op.name,
                    "node": self.node_of.get(op.name, op.name),
                    "op": op.op,
                    "device": op.device,
                    "reason": op.reason,
                    "macs": op.macs,
                    "predicted": {
                        device: {
                            "us": us,
                            "provenance": MODELLED,
                            "figure": self.figure_of.get((op.name, device)),
                        }
                        for device, us in op.cost_us.items()
                    },
                    "declined": dict(op.declined),
                }
                for op in self.plan.ops
            ],
            "modes": {name: self.modes[name].to_dict() for name in MODES},
            "best": self.best,
            "npu_regions": (
                None if self.regions is None else [region.to_dict() for region in self.regions]
            ),
            "with_estimates_us": self.with_estimates_us,
            "seconds": round(self.seconds, 3),
        }


def explain(config: BuildConfig, progress: Progress, *, estimate: bool = False) -> PlanReport:
    """Plan as `config` says, and with either device alone.

    Args:
        config: a build without an output.
        progress: told of every phase.
        estimate: ask the vendor's compiler about the NPU's regions, too.

    Raises:
        BadInput: also where `estimate` is asked for an NPU that is not the vendor's.
        EnvironmentProblem: `estimate` without the vendor's compiler.
    """
    assert config.output is None, "a plan writes nothing"
    begin = time.perf_counter()
    spec = compiler.target_spec(config.target, progress)
    if estimate:
        try:
            proxy_for(spec.npu)
        except EstimateUnavailable as error:
            raise BadInput(f"--estimate: {error}; plan without it") from None
    steps = {phase.name: phase.weight for phase in pipeline.PHASES if phase.plan}
    progress.begin({**steps, "compare": 1.0, **({"estimate": 5.0} if estimate else {})})
    state = pipeline.run(
        pipeline.State(config=config, spec=spec, note=progress.note),
        plan_only=True,
        on_phase=lambda phase: progress.step(phase.name),
    )
    assert state.model is not None and state.plan is not None
    progress.step("compare")
    costs = CostModel(spec)
    nodes = read_program(state.mod)
    modes = {name: _mode(state, name, nodes, costs) for name in MODES}
    figures, figure_of = _figures(nodes, modes[config.devices].plan, costs)
    regions = None
    if estimate:
        progress.step("estimate")
        regions = plan_regions.estimate_regions(state, costs)
    return PlanReport(
        model=config.model,
        target=spec.name,
        dtype=config.dtype,
        devices=config.devices,
        modes=modes,
        figures=figures,
        figure_of=figure_of,
        node_of=dict(state.model.node_of),
        regions=regions,
        seconds=time.perf_counter() - begin,
    )


def handovers(nodes: list[Node], device: Mapping[str, str], costs: CostModel) -> list[Handover]:
    """What the plan hands over, per pair of devices; costs add up to `Plan.handover_us`."""
    index = {node.name: i for i, node in enumerate(nodes)}
    ops = [
        Op(
            cost_us={},
            inputs=tuple(index[name] for name in node.inputs),
            nbytes=op_work(node.call).output_bytes,
            reads_graph_inputs=node.reads_graph_inputs,
            is_output=node.is_output,
        )
        for node in nodes
    ]
    found: dict[tuple[str, str], list[Move]] = {}
    for move in moves(ops, [device[node.name] for node in nodes], costs.handover_us):
        found.setdefault((move.source, move.target), []).append(move)
    return [
        Handover(
            source=source,
            target=target,
            waits=len(group),
            tensors=sum(len(move.sizes) for move in group),
            nbytes=sum(sum(move.sizes) for move in group),
            us=sum(move.us for move in group),
        )
        for (source, target), group in sorted(found.items())
    ]


def _mode(state: pipeline.State, devices: str, nodes: list[Node], costs: CostModel) -> Mode:
    """`state` placed again with `devices`."""
    config = dataclasses.replace(state.config, devices=devices)
    plan = _phase("place").run(dataclasses.replace(state, config=config)).plan
    assert plan is not None
    return Mode(plan=plan, handovers=tuple(handovers(nodes, plan.device, costs)))


def _phase(name: str) -> pipeline.Phase:
    return next(phase for phase in pipeline.PHASES if phase.name == name)


def _figures(
    nodes: list[Node], plan: Plan, costs: CostModel
) -> tuple[tuple[Origin, ...], dict[tuple[str, str], int]]:
    """The spec's figures behind the predictions; a view rests on none."""
    index: dict[Origin, int] = {}
    figure_of: dict[tuple[str, str], int] = {}
    for node, op in zip(nodes, plan.ops, strict=True):
        work = op_work(node.call)
        if work.kind == "view":
            continue
        for device in op.cost_us:
            origin = costs.origin(work, device)
            figure_of[op.name, device] = index.setdefault(origin, len(index))
    return tuple(index), figure_of
