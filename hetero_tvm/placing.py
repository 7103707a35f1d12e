"""The phases up to the plan: what the NPU must not compute, and what each device gets."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Sequence
from typing import Any

from tvm import relax

from hetero_tvm import frontend, memory_limit
from hetero_tvm.build_state import State, allowed_modes, applied, mode
from hetero_tvm.costs import can_estimate, products_of, with_estimates, with_packed_weights
from hetero_tvm.errors import BadInput, TargetUnusable
from hetero_tvm.lowering import group, lower_for_npu, split
from hetero_tvm.memory_forecast import PlanMemory, plan_memory
from hetero_tvm.plan_regions import Region, estimate_regions
from hetero_tvm.plan_rounds import plan_by_regions
from hetero_tvm.sample_inputs import read_sample
from relay_passes import gpu_support, nan_tests, npu_precision, npu_support
from relay_passes.npu_window import window_breaks
from relay_passes.part_work import part_work
from relay_passes.place import place_all, reprice
from relay_passes.plan import Plan
from relay_passes.planner.problem import Waiting
from relay_passes.program import read_program
from relay_passes.question import BOTH as DEVICES
from relay_passes.to_half import ToHalf
from schedules.cost_model import CostModel
from target_specs.spec import SocSpec

# Inputs on which the effect of float16 is looked at; none that a user's comparison starts with.
_PRECISION_SEEDS = (1001, 1002)
# Of one device's predicted time. A step of SmolLM2-135M in float32 was predicted to gain 5 % on a
# host and lost 5 % (`benchmarks/llm_speedup.py`).
_CLEARLY_FASTER = 0.9


def to_half(state: State) -> State:
    """Store and compute in float16 where the build is to."""
    if state.config.dtype == "float32":
        return state
    return dataclasses.replace(state, mod=applied(ToHalf(), state.mod))


def precision(state: State) -> State:
    """Find the operators that the NPU's float16 would harm too much."""
    assert state.model is not None
    npu = state.spec.npu
    kept = dict.fromkeys(_off_npu(state), "kept off the NPU by --off-npu")
    if "npu" not in state.config.devices or not npu_support.is_half_inside(npu):
        return dataclasses.replace(state, unfit=kept)
    names = [parameter.name for parameter in state.mod["main"].params]
    sets = [frontend.draw_inputs(state.model.ranges, seed) for seed in _PRECISION_SEEDS]
    samples = state.config.samples
    if samples:
        sets = [{**sets[0], **read_sample(path, state.model.inputs)} for path in samples]
    inputs = [dict(zip(names, each.values(), strict=True)) for each in sets]
    harmed = npu_precision.precision_declines(state.mod, npu, inputs, strict=bool(samples))
    asked = nan_tests.nan_declines(state.mod)
    return dataclasses.replace(state, unfit={**harmed, **asked, **kept})


def _off_npu(state: State) -> tuple[str, ...]:
    """The operators that the user keeps off the NPU, by name or by pattern."""
    wanted = state.config.off_npu
    known = [node.name for node in read_program(state.mod)] if wanted else []
    kept: dict[str, None] = {}
    for pattern in wanted:
        # A name may have what a pattern gives a meaning to.
        found = [pattern] if pattern in known else fnmatch.filter(known, pattern)
        if not found:
            near = difflib.get_close_matches(pattern, known, n=1, cutoff=0.3)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadInput(
                f"--off-npu {pattern}: no such operator; `inspect --json` lists them{hint}"
            )
        kept |= dict.fromkeys(found)
    return tuple(kept)


def place(state: State) -> State:
    """Ask every device about every operator, then choose by cost."""
    config, wanted = state.config, mode(state.config)
    costs = state.costs or CostModel(state.spec)
    costs = with_packed_weights(costs, read_program(state.mod), state.four_bit)
    if config.estimate:
        works = [node.work for node in read_program(state.mod)]
        costs = with_estimates(
            costs, products_of(costs, works), cache_dir=config.cache_dir, progress=state.note
        )
    planner = _Planner(dataclasses.replace(state, costs=costs, prices={wanted: costs}))
    if not _wants_estimates(state):
        plans = planner.place(costs)
        prices = dict.fromkeys(plans, costs)
        placed = dataclasses.replace(state, plan=plans[wanted], plans=plans, prices=prices)
        return _within_memory(_clearly_faster(placed))
    found = plan_by_regions(planner, costs, wanted, state.note)
    placed = dataclasses.replace(
        state,
        plan=found.plans[wanted],
        plans=found.plans,
        prices={name: found.costs.get(name, costs) for name in found.plans},
        estimated=found.regions,
    )
    return _within_memory(_clearly_faster(placed))


def _clearly_faster(state: State) -> State:
    """A step of a language model takes a second device only for a clear gain.

    Layers are alike, so what a cost misjudges it misjudges in all of them; and no step is timed
    before it is used, as other models are where they are built (`measure_plans`).
    """
    if state.config.llm is None or state.config.objective != "latency":
        return state
    us = {name: state.plans[name].predicted_us for name in allowed_modes(state.config)}
    best = mode(state.config)
    alone = min((name for name in us if name in DEVICES), key=us.__getitem__)
    if not us[best] < us[alone] <= us[best] / _CLEARLY_FASTER:
        return state
    gain = 1 - us[best] / us[alone]
    state.note(f"following the plan of {alone}: {best} would gain {gain:.1%}, too little")
    return dataclasses.replace(state, plan=state.plans[alone])


def _within_memory(state: State) -> State:
    """Follow the fastest plan that keeps the limit on memory, where there is one."""
    limit = state.config.memory_limit
    if limit is None:
        return state
    fitting = fitting_modes(state, limit)
    if mode(state.config) in fitting:
        return state
    best = min(fitting, key=lambda name: state.plans[name].predicted_us)
    state.note(
        f"{mode(state.config)} needs more than {limit:,} bytes: following the plan of {best}"
    )
    return dataclasses.replace(state, plan=state.plans[best])


def fitting_modes(state: State, limit: int) -> list[str]:
    """The modes that the build may follow and whose plans keep the limit; OverMemoryLimit."""
    assert state.model is not None
    inputs = state.model.inputs
    needs = {
        name: memory_of(dataclasses.replace(state, plan=state.plans[name]))
        for name in allowed_modes(state.config)
    }
    fitting = [n for n, need in needs.items() if memory_limit.needed_bytes(need, inputs) <= limit]
    if not fitting:
        raise memory_limit.refusal(needs, inputs, limit)
    return fitting


def memory_of(state: State) -> PlanMemory:
    """What the plan needs on each device.

    Requires: operators are whole, as `place` leaves them.
    """
    assert state.plan is not None
    costs = state.prices.get(mode(state.config)) or state.costs
    packed = costs.packed if costs is not None else {}
    return plan_memory(read_program(state.mod), state.plan, state.spec.npu, packed)


def _wants_estimates(state: State) -> bool:
    """Of NPU regions: as the user says, else where they can be had and do not take too long."""
    config = state.config
    if config.estimate is not None:
        return config.estimate
    # A language model's regions have thousands of operators, and are planned for every length.
    return config.llm is None and can_estimate(state.spec.npu)


class _Planner:
    """`plan_rounds.Planner` of a program; one use for each."""

    def __init__(self, state: State) -> None:
        spec, config = state.spec, state.config
        self.state = state
        self.nodes = read_program(state.mod)

        def declined(call: relax.Call, device: str) -> str | None:
            if device == "npu":
                return npu_support.decline_reason(call, spec.npu)
            return gpu_support.decline_reason(call, spec.gpu)

        assert state.costs is not None
        waits = state.costs.waiting(element_bytes=2 if config.dtype == "float16" else 4)
        self.shared: dict[str, Any] = {
            "declined": declined,
            "waiting": Waiting(
                wait_us=waits.wait_us,
                region_us=waits.region_us,
                border_us_per_byte=waits.border_us_per_byte,
            ),
            "unfit": state.unfit,
            "tile": spec.npu.tile,
            "objective": config.objective,
            "gpu_share": config.gpu_share,
            "power_w": _power(spec, needed=config.objective != "latency"),
            "npu_rows": config.npu_rows,
        }

    def place(self, costs: CostModel, also: Sequence[Plan] = (), **search: Any) -> dict[str, Plan]:
        # Thousands of operators: nobody looks at what is not asked for, unless it is to be shown.
        if self.state.config.llm is not None and self.state.config.output is not None:
            search = {"modes": allowed_modes(self.state.config), **search}
        plans = place_all(self.state.mod, cost_us=costs.cost_us, also=also, **search, **self.shared)
        return self._within_window(plans, costs)

    def _within_window(self, plans: dict[str, Plan], costs: CostModel) -> dict[str, Plan]:
        """`plans` with regions cut that the NPU could not address."""
        cut = {}
        for name, plan in plans.items():
            breaks = window_breaks(self.nodes, plan, self.state.spec.npu)
            if breaks:
                fits = self._repriced(plan, costs, name, breaks)
                bound = min(plan.bound_us, fits.predicted_us)
                cut[name] = dataclasses.replace(fits, bound_us=bound, exact=False)
        if not cut:
            return plans
        plans = {**plans, **cut}
        us = {name: plan.predicted_us for name, plan in plans.items()}
        return {n: dataclasses.replace(plan, alternatives_us=us) for n, plan in plans.items()}

    def reprice(self, plan: Plan, costs: CostModel, mode: str, breaks: Sequence[str]) -> Plan:
        again = self._repriced(plan, costs, mode, breaks)
        more = window_breaks(self.nodes, again, self.state.spec.npu)
        return self._repriced(plan, costs, mode, (*breaks, *more)) if more else again

    def _repriced(self, plan: Plan, costs: CostModel, mode: str, breaks: Sequence[str]) -> Plan:
        return reprice(
            self.state.mod,
            plan,
            cost_us=costs.cost_us,
            wanted=mode,
            breaks=breaks,
            **self.shared,
        )

    def estimate(self, plan: Plan, costs: CostModel) -> tuple[Region, ...]:
        # Without a place for weights: what is not built must leave nothing there.
        state = dataclasses.replace(self.state, plan=plan, weights=None)
        for phase in (split, group, lower_for_npu):
            state = phase(state)
        parts = {
            node.name: part_work(node, placed, "npu")
            for node, placed in zip(self.nodes, plan.ops, strict=True)
        }
        return estimate_regions(
            state.regions,
            {name: work for name, work in parts.items() if work is not None},
            costs,
            cache_dir=state.config.cache_dir,
            progress=state.note,
        )


def _power(spec: SocSpec, *, needed: bool) -> dict[str, float]:
    """Watts of GPU and NPU; nothing where one is not known."""
    power = {"gpu": spec.gpu.power_w, "npu": spec.npu.power_w}
    known = {device: watts for device, watts in power.items() if watts is not None}
    if needed and len(known) < len(power):
        missing = " and ".join(f"[{d}] power_w" for d in power if d not in known)
        raise TargetUnusable(
            f"target {spec.name} does not say what power its devices take ({missing}): "
            "plan for latency, or add it to a TOML file of the target"
        )
    return known if len(known) == len(power) else {}
