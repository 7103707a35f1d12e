"""A plan explained: every operator's time on every device and in every split, and the plan against
what each device alone, and both with whole operators, would take.

Nothing is compiled; the pipeline runs as far as `build --plan-only` does. The NPU regions of the
plan are made only where the vendor's estimate of them is asked for.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetero_tvm import compiler, pipeline
from hetero_tvm.build_state import State, mode
from hetero_tvm.config import BuildConfig
from hetero_tvm.errors import BadInput
from hetero_tvm.memory_forecast import PlanMemory
from hetero_tvm.placing import memory_of
from hetero_tvm.plan_regions import Region
from hetero_tvm.plan_totals import MODELLED, mode_dict, rests_on, waiting_figures
from hetero_tvm.progress import Progress
from relay_passes.place import MODES
from relay_passes.plan import OpPlan, Plan
from relay_passes.program import read_program
from schedules.npu_estimate import EstimateUnavailable, proxy_for
from target_specs.spec import Origin


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanReport:
    """All that the verb says."""

    model: Path
    target: str
    dtype: str
    devices: str  # that were asked for
    wanted: str  # the mode that a build with the same flags follows
    objective: str
    gpu_share: float
    modes: Mapping[str, Plan]  # the best plan of each of `MODES`
    figures: tuple[Origin, ...]  # of the spec, that predictions rest on
    figure_of: Mapping[tuple[str, str], int]  # operator, device -> index in `figures`
    provenance_of: Mapping[tuple[str, str], str]  # operator, device -> of the predicted time
    waiting: Mapping[str, tuple[float, Origin]]  # key of the spec -> what waits rest on
    node_of: Mapping[str, str]
    regions: tuple[Region, ...] | None  # of that plan; None: nothing was estimated
    memory: PlanMemory  # of that plan
    seconds: float

    @property
    def plan(self) -> Plan:
        """The plan that a build with these flags follows."""
        return self.modes[self.wanted]

    @property
    def best(self) -> str:
        """The mode with the least predicted time; of those equal to 0.01 µs the simplest."""
        return min(MODES, key=lambda name: round(self.modes[name].predicted_us, 2))

    @property
    def provenance(self) -> str:
        """What the totals rest on."""
        if not self.regions or not any(region.counts for region in self.regions):
            return MODELLED
        return f"{MODELLED}, NPU regions vendor-estimated"

    def to_dict(self) -> dict[str, Any]:
        """As plain data, the `--json` of the verb."""
        return {
            "model": str(self.model),
            "target": self.target,
            "dtype": self.dtype,
            "devices": self.devices,
            "objective": self.objective,
            "gpu_share": self.gpu_share,
            "plan": self.wanted,
            "figures": [dataclasses.asdict(figure) for figure in self.figures],
            "waiting": {
                key: {"value": value, **dataclasses.asdict(origin)}
                for key, (value, origin) in self.waiting.items()
            },
            "operators": [self._operator(op) for op in self.plan.ops],
            "modes": {name: mode_dict(self.modes[name], self.provenance) for name in MODES},
            "best": self.best,
            "memory_bytes": dataclasses.asdict(self.memory),
            "npu_regions": (
                None if self.regions is None else [region.to_dict() for region in self.regions]
            ),
            "seconds": round(self.seconds, 3),
        }

    def _operator(self, op: OpPlan) -> dict[str, Any]:
        split = None
        if op.split is not None:
            split = {**dataclasses.asdict(op.split), "npu_share": op.split.npu_share}
            split["predicted"] = self._times(op, op.split_us)
        return {
            "name": op.name,
            "node": self.node_of.get(op.name, op.name),
            "op": op.op,
            "device": op.device,
            "split": split,
            "early": op.early_dict(),
            "region": op.region,
            "reason": op.reason,
            "macs": op.macs,
            "predicted": self._times(op, op.cost_us),
            "splits_offered": [
                {**dataclasses.asdict(offer.split), "predicted": self._times(op, offer.us)}
                for offer in op.offers
            ],
            "declined": dict(op.declined),
        }

    def _times(self, op: OpPlan, us: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        return {
            device: {
                "us": time_us,
                "provenance": self.provenance_of.get((op.name, device), MODELLED),
                "figure": self.figure_of.get((op.name, device)),
            }
            for device, time_us in us.items()
        }


def explain(config: BuildConfig, progress: Progress) -> PlanReport:
    """Plan as `config` says, and in every other mode.

    Args:
        config: a build without an output. Unless `estimate` is False the vendor's compiler is asked
            about the plan's NPU regions, where it can be.
        progress: told of every phase.

    Raises:
        BadInput: also where estimates are asked for of an NPU that is not the vendor's.
        EnvironmentProblem: estimates without the vendor's compiler.
    """
    assert config.output is None, "a plan writes nothing"
    begin = time.perf_counter()
    costs = compiler.target_costs(
        config.target, progress, cache_dir=config.cache_dir, reprofile=config.reprofile
    )
    spec = costs.spec
    if config.estimate:  # said before the work
        try:
            proxy_for(spec.npu)
        except EstimateUnavailable as error:
            raise BadInput(f"--estimate: {error}; plan without it") from None
    steps = {phase.name: phase.weight for phase in pipeline.PHASES if phase.plan}
    progress.begin(steps)
    state = pipeline.run(
        State(config=config, spec=spec, costs=costs, note=progress.note),
        plan_only=True,
        on_phase=lambda phase: progress.step(phase.name),
    )
    assert state.model is not None and state.plan is not None
    wanted = mode(config)
    rests = rests_on(read_program(state.mod), state.plan, state.prices[wanted])
    return PlanReport(
        model=config.model,
        target=spec.name,
        dtype=config.dtype,
        devices=config.devices,
        wanted=wanted,
        objective=config.objective,
        gpu_share=config.gpu_share,
        modes=state.plans,
        figures=rests.figures,
        figure_of=rests.figure_of,
        provenance_of=rests.provenance_of,
        waiting=waiting_figures(spec),
        node_of=dict(state.model.node_of),
        regions=state.estimated.get(wanted),
        memory=memory_of(state),
        seconds=time.perf_counter() - begin,
    )
