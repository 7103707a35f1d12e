"""Why a plan puts an operator where it does, in words with numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from relay_passes.plan import Offer, Split
from relay_passes.planner.problem import Cut

BOTH = ("gpu", "npu")


def place_reason(
    device: str,
    cost: Mapping[str, float],
    refusals: Mapping[str, str],
    devices: Collection[str],
    crossing: float,
) -> str:
    """Why a whole operator is where it is; `crossing`: what a wait between devices costs."""
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
    return f"{device}: stays with its neighbours ({against}), a wait costs {_format(crossing)} µs"


def split_reason(split: Split, us: Mapping[str, float], cost: Mapping[str, float]) -> str:
    """Why an operator is split: both parts' times beside those of the whole."""
    parts = f"{_format(us['npu'])} µs on the npu beside {_format(us['gpu'])} µs on the gpu"
    alone = " and ".join(f"{_format(cost[d])} µs on the {d}" for d in BOTH if d in cost)
    return f"{split.kind}: the npu computes {split.at} of {split.extent}: {parts}, alone {alone}"


def early_reason(early: Cut | None, us: Sequence[float] = ()) -> str:
    """In which order the GPU computes, where that is not as a whole; `us`: the times of both."""
    if early is None:
        return ""
    times = f" ({' and '.join(map(_format, us))} µs)" if us else ""
    return f"; in two parts{times}, {early.at} of {early.extent} first, for the npu to begin with"


def lost_splits(offers: Collection[Offer]) -> str:
    """That splits were considered: the one whose longer part is shortest."""
    best = min(offers, key=lambda offer: max(offer.us.values()), default=None)
    if best is None or not any(best.us.values()):
        return ""
    split, us = best.split, best.us
    return (
        f"; splits lost: {split.kind}, {split.at} of {split.extent} on the npu, "
        f"takes {_format(us['npu'])} µs there beside {_format(us['gpu'])} µs on the gpu"
    )


def _format(us: float) -> str:
    return f"{us:.0f}" if us >= 10 else f"{us:.1f}"
