"""What operators take inside the NPU region that they are in, by the vendor's estimate of it.

A region is estimated whole: layouts change between its operators, units of the chip work side by
side, small operators vanish in larger ones. None of that shows where operators are priced one by
one. So the region's estimate is laid out to its operators, and each is from then on priced by how
much more or less it takes there than by itself; a part of it by the same factor.

    estimate of the region = what its operators take + its border, which the planner prices apart

The trace of the estimate says what is whose (`npu_trace`). What it gives to nobody (views, layouts,
inputs and outputs beyond the border's price) everybody has his share of; without a trace, each has
by what he was priced at before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from schedules.npu_costs import NpuCost


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegionCost:
    """One operator's time in its region over its time by itself."""

    factor: float
    why: str  # of which region, by which estimate
    lower_bound: bool = False  # the estimate lacks the costs of some operators

    def inside(self, alone: NpuCost) -> NpuCost:
        """What `alone` costs in the region: the operator, or a part of it."""
        us = alone.us * self.factor
        # What memory was behind is no more than the whole: in a region it comes in meanwhile.
        memory_bytes = min(alone.memory_bytes, int(us * alone.gbps * 1e3))
        return dataclasses.replace(
            alone,
            compute_us=us,
            memory_bytes=memory_bytes,
            fixed_us=0.0,
            provenance="vendor-estimated",
            why=self.why,
            lower_bound=self.lower_bound,
        )


def lay_out(
    region_us: float,
    border_us: float,
    alone_us: Mapping[str, float],
    shares: Mapping[str, float],
    *,
    lower_bound: bool = False,
) -> dict[str, float]:
    """What each operator takes of a region's estimate, in µs.

    Args:
        region_us: the estimate of the whole.
        border_us: of that, what the planner counts for inputs and outputs.
        alone_us: operator -> what it is priced at by itself; views are left out.
        shares: operator -> its share of the region's time by the trace; empty without one.
        lower_bound: the estimate lacks costs; then no operator gets less than by itself.

    Ensures: without `lower_bound` the sum is `region_us - border_us`, or 0 where that is negative.
    """
    left = max(0.0, region_us - border_us)
    weights = {name: shares.get(name, 0.0) for name in alone_us}
    if not sum(weights.values()):
        weights = dict(alone_us)
    total = sum(weights.values())
    if not total:
        return {}
    found = {name: left * weight / total for name, weight in weights.items()}
    if lower_bound:
        found = {name: max(us, alone_us[name]) for name, us in found.items()}
    return found
