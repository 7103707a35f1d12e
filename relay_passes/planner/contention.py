"""What a finished plan takes longer because both devices draw on one memory.

The search prices the parts of a cut operator for two devices at work, and an operator that stays
whole for one, since it cannot know what the other one does meanwhile. In the finished plan that is
seen: where two devices work at once, what is whole takes longer by as much as its price says.
Nothing is moved, so this is an estimate, and at most as long as if the other one never rested.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence

from relay_passes.planner.timeline import Part, Timeline


def contention_us(timeline: Timeline, slowdown: Sequence[Mapping[str, float]]) -> float:
    """How much later the plan of `timeline` ends, in µs.

    Args:
        timeline: of the plan.
        slowdown: of each operator: device -> by what share its time there grows while the other
            device works; 0 or absent: not at all, or its price has that already.
    """
    later = [
        sum(
            slowdown[part.op].get(device, 0.0) * _beside(part, others)
            for part in timeline.parts
            if part.device == device
        )
        for device, others in (
            ("gpu", _intervals(timeline, "npu")),
            ("npu", _intervals(timeline, "gpu")),
        )
    ]
    return max(later)


_Intervals = tuple[list[float], list[float]]  # where they start, where they end


def _intervals(timeline: Timeline, device: str) -> _Intervals:
    """When the device works: its parts follow each other, so both lists ascend."""
    parts = [part for part in timeline.parts if part.device == device]
    return [part.start_us for part in parts], [part.end_us for part in parts]


def _beside(part: Part, others: _Intervals) -> float:
    """For how long the other device works while `part` does."""
    starts, ends = others
    first = bisect.bisect_right(ends, part.start_us)
    last = bisect.bisect_left(starts, part.end_us)
    return sum(
        min(part.end_us, end) - max(part.start_us, start)
        for start, end in zip(starts[first:last], ends[first:last], strict=True)
    )
