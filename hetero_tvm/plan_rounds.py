"""Plan, have the plan's NPU regions estimated by the vendor, plan again with what that says.

What an operator takes on the NPU hangs on the region around it, and that on the plan. So:

    1. plan; estimate the regions of the plan for the NPU alone, which hold all that it takes
    2. plan again at these prices; estimate the regions of the new plans
    3. again from 2, until no plan is new, or `ROUNDS` times; then once more, searching wider
    4. where a region leaves the chip for want of room, try to cut it there

Every plan is then priced by the estimates of its own regions, and each mode follows the best of all
plans that it allows; so none is predicted slower than the better single device, by the same
estimates. A plan of which a region has no estimate, or only a lower bound that says less than the
model, keeps the model's prices there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from hetero_tvm.plan_regions import Region
from relay_passes.place import MODES
from relay_passes.plan import Plan
from schedules.cost_model import CostModel

ROUNDS = 4  # a sentence encoder and an OCR detector are stable after two or three
_BEAM = 40  # of the searches before the last; what they find is estimated, not followed
_MOST_CUTS = 3  # places tried in one region
_WORTH = 0.999  # of the time before: a cut that saves less is none


class Planner(Protocol):
    """One program's ways to be planned; the pipeline has them."""

    def place(self, costs: CostModel, also: Sequence[Plan] = (), **search: Any) -> dict[str, Plan]:
        """The best plan of each mode at these costs; see `relay_passes.place.place_all`.

        `search`: `modes` and `beam` of that.
        """
        ...

    def reprice(self, plan: Plan, costs: CostModel, mode: str, breaks: Sequence[str]) -> Plan:
        """The same places at other costs, regions cut at `breaks`."""
        ...

    def estimate(self, plan: Plan, costs: CostModel) -> tuple[Region, ...]:
        """Its NPU regions, as the vendor estimates them."""
        ...


@dataclasses.dataclass(frozen=True)
class Rounds:
    """What came of it."""

    plans: Mapping[str, Plan]  # of each of `MODES` that was planned
    regions: Mapping[str, tuple[Region, ...]]  # of the modes that were estimated
    costs: Mapping[str, CostModel]  # the prices of each of these plans


@dataclasses.dataclass(frozen=True)
class _Priced:
    plan: Plan
    regions: tuple[Region, ...]
    costs: CostModel


def plan_by_regions(
    planner: Planner,
    costs: CostModel,
    wanted: str,
    note: Callable[[str], None] = lambda line: None,
    *,
    rounds: int = ROUNDS,
) -> Rounds:
    """The plans of all modes; those up to `wanted` by estimates of their own regions.

    Args:
        planner: of one program.
        costs: of operators by themselves.
        wanted: the mode that is to be followed.
        note: told what changes.
        rounds: how often at most plans are made and estimated.

    Raises:
        EstimateUnavailable: the vendor's compiler is not installed.
    """
    asked = [wanted] if wanted in ("gpu", "npu") else list(MODES[: MODES.index(wanted) + 1])
    search = _Search(planner, costs)
    # The NPU's own plan first: before it, the others stand on prices that may be far off.
    first = "npu" if "npu" in asked else wanted
    search.add(first, planner.place(costs, modes=[first])[first])
    for _ in range(rounds):
        plans = planner.place(search.costs, search.plans, beam=_BEAM)
        if not [mode for mode in asked if search.add(mode, plans[mode])]:
            break
    plans = planner.place(search.costs, search.plans)  # once with all that the search has
    for mode in asked:
        search.add(mode, plans[mode])
    best = {mode: search.best(mode) for mode in asked}
    cut = search.cut(best[wanted], wanted)
    if cut is not best[wanted]:
        note(
            f"cutting an NPU region that outgrows the chip: {cut.plan.predicted_us / 1e3:.3f} ms "
            f"instead of {best[wanted].plan.predicted_us / 1e3:.3f} ms"
        )
        best[wanted] = cut
    final = {mode: best[mode].plan if mode in best else plan for mode, plan in plans.items()}
    us = {mode: plan.predicted_us for mode, plan in final.items()}
    return Rounds(
        plans={
            mode: dataclasses.replace(
                _bounded(plan, plans[mode]) if mode in best else plan, alternatives_us=us
            )
            for mode, plan in final.items()
        },
        regions={mode: one.regions for mode, one in best.items()},
        costs={mode: one.costs for mode, one in best.items()},
    )


class _Search:
    """Plans found so far, each priced by the estimates of its own regions."""

    def __init__(self, planner: Planner, costs: CostModel) -> None:
        self.planner = planner
        self.costs = costs  # by the newest estimate that each operator is in
        self._found: dict[str, dict[object, _Priced]] = {mode: {} for mode in MODES}

    @property
    def plans(self) -> list[Plan]:
        """All of them, for the next search to start from; cut regions are none of its business."""
        return [one.plan for found in self._found.values() for one in found.values()]

    def add(self, mode: str, plan: Plan) -> bool:
        """Estimate and price `plan`; False where that says nothing that was not known."""
        if plan.places in self._found[mode]:
            return False
        same = [found[plan.places] for found in self._found.values() if plan.places in found]
        if same:
            again = self.planner.reprice(plan, same[0].costs, mode, ())
            self._found[mode][plan.places] = dataclasses.replace(same[0], plan=again)
            return False
        priced = self.priced(mode, plan, ())
        self._found[mode][plan.places] = priced
        self.costs = priced.costs
        return bool(priced.regions)

    def priced(self, mode: str, plan: Plan, breaks: Sequence[str]) -> _Priced:
        """`plan` with its regions cut at `breaks`, at the prices of the estimates of these."""
        cut = self.planner.reprice(plan, self.costs, mode, breaks) if breaks else plan
        regions = self.planner.estimate(cut, self.costs)
        own = {name: cost for region in regions for name, cost in region.costs().items()}
        costs = dataclasses.replace(self.costs, npu_regions={**self.costs.npu_regions, **own})
        return _Priced(self.planner.reprice(plan, costs, mode, breaks), regions, costs)

    def best(self, mode: str) -> _Priced:
        """The best plan that `mode` allows, of equals the simplest."""
        allowed = [mode] if mode in ("gpu", "npu") else MODES[: MODES.index(mode) + 1]
        candidates = [one for name in allowed for one in self._found[name].values()]
        return min(candidates, key=lambda one: (round(_value(one.plan), 3), _splits(one.plan)))

    def cut(self, best: _Priced, mode: str) -> _Priced:
        """`best` with regions cut where they spill, as long as that saves time."""
        for region in best.regions:
            for name in _places_to_cut(region, best.plan):
                trial = self.priced(mode, best.plan, (*best.plan.breaks, name))
                if _value(trial.plan) < _WORTH * _value(best.plan):
                    best = trial
                    break
        return best


def _value(plan: Plan) -> float:
    """What the objective makes small."""
    if plan.objective == "latency" or plan.joules is None:
        return plan.predicted_us
    return plan.joules * (plan.predicted_us if plan.objective == "edp" else 1.0)


def _splits(plan: Plan) -> int:
    return sum(op.split is not None for op in plan.ops)


def _places_to_cut(region: Region, plan: Plan) -> list[str]:
    """Operators before which to cut: those that spill most, and those that come after them."""
    if not region.spills:
        return []
    inside = [op.name for op in plan.ops if op.name in region.alone_us]
    most = sorted(region.spills, key=lambda name: -region.spills[name])
    places: dict[str, None] = {}
    for name in most:
        at = inside.index(name) if name in inside else 0
        places.update(dict.fromkeys(inside[max(at, 1) : at + 2]))
    return list(places)[:_MOST_CUTS]


def _bounded(plan: Plan, searched: Plan) -> Plan:
    """`plan` with what the last search says of how good plans can be at its prices.

    It is exact only where the search ended with this very plan at these very prices.
    """
    bound = min(searched.bound_us, plan.predicted_us)
    same = plan.places == searched.places and abs(plan.predicted_us - searched.predicted_us) < 0.01
    return dataclasses.replace(plan, bound_us=bound, exact=searched.exact and same)
