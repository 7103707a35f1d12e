"""How much faster schedules of a kernel are than its default one, and how sure that is.

    race([run, …], default)  -> for each: gain, between low and high

Each schedule runs in pairs with the default, by turns first and second: short batches, in which a
machine that also does other work treats both alike, yet long against what a batch costs by itself.
The gain is the median of the pairs' ratios. It lies between two of these ratios in 99 of 100 races;
which two follows from their number alone, whatever their distribution is. Pairs are added until the
two are near each other, until a schedule is surely slower, or until the time is up.

On machines without us too (`hetero_tvm/candidates`): nothing but Python's own library.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

Run = Callable[[int], float]  # mean seconds of a run, of so many one after the other

_MOST_S = 4.0  # for each schedule
_BATCH_S = 0.5e-3
_MOST_BATCH_S = 5e-3
_SLOW_S = 50e-3  # of one run, which no other work explains
_OVERHEADS = 25  # what a batch costs by itself goes into it so often
_LOOKS = 20  # at a short batch, of which the shortest counts
_FEW = 16  # runs
_MOST_RUNS = 4000
_FEWEST, _FEWEST_SLOW = 20, 8  # pairs; where the time is up before
_NARROW = 1.03  # high over low
_GROWTH = 1.2  # of the number of pairs from one look at them to the next
_SURE = 2.576  # standard deviations: 99 % of a normal distribution


def race(
    schedules: Sequence[Run],
    default: Run,
    *,
    most_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[dict[str, float]]:
    """For each schedule: median `seconds`, those of its `default`, `gain`, `low`, `high`, `pairs`.

    Args:
        schedules: run once before, like the default.
        default: what each runs beside.
        most_s: for all; slow kernels may take longer, since eight pairs are run in any case.
        clock: seconds.
    """
    begin = clock()
    default_count = batch(default)
    lanes = [_Lane(run, max(default_count, batch(run))) for run in schedules]
    active = list(lanes)
    while active:
        for lane in active:
            lane.add(default)
        is_late = clock() - begin > most_s
        active = [lane for lane in active if not lane.is_done(is_late)]
    return [lane.result() for lane in lanes]


def longest(count: int, limit_s: float) -> float:
    """Seconds for a race of so many schedules, where it and what it takes must end in `limit_s`."""
    return min(_MOST_S * count, limit_s / 2)


def batch(run: Run) -> int:
    """How many runs make a batch."""
    once = run(1)
    if once >= _SLOW_S:
        return 1
    once = min([once, *(run(1) for _ in range(_LOOKS))])
    if once >= _MOST_BATCH_S:
        return 1
    count = _FEW
    for _ in range(2):  # the first is a little short, since what a batch costs is in it
        # Too much, if anything: what disturbs a look at one run cannot make it too little.
        each = max(min(run(count) for _ in range(_LOOKS)), 1e-8)
        wanted = min(_MOST_BATCH_S, max(_BATCH_S, _OVERHEADS * (once - each)))
        count = max(1, min(_MOST_RUNS, math.ceil(wanted / each)))
    return count


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """What the median of such ratios lies between; fewer than eight are not enough for 99 %."""
    ordered = sorted(ratios)
    count = len(ordered)
    place = max(0, math.floor((count - _SURE * math.sqrt(count)) / 2) - 1)
    return ordered[place], ordered[count - 1 - place]


class _Lane:
    """One schedule beside the default."""

    def __init__(self, run: Run, count: int) -> None:
        self.run = run
        self.begin(count)

    def begin(self, count: int) -> None:
        """Without any pair, with batches of `count` runs."""
        self.count = count
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.ratios: list[float] = []
        self.look = _FEWEST  # at so many pairs

    def add(self, default: Run) -> None:
        """One pair; as many runs of both, so that what a batch costs by itself favours neither."""
        if len(self.ours) % 2:
            self.theirs.append(default(self.count))
            self.ours.append(self.run(self.count))
        else:
            self.ours.append(self.run(self.count))
            self.theirs.append(default(self.count))
        self.ratios.append(self.theirs[-1] / self.ours[-1])

    def is_done(self, is_late: bool) -> bool:
        """Whether more pairs would say nothing more, or there is no more time."""
        count = len(self.ours)
        if is_late:
            return count >= _FEWEST_SLOW
        if count < self.look:
            return False
        shortest = self.count * min(self.ours + self.theirs)
        if shortest < _BATCH_S / 2 and self.count < _MOST_RUNS:  # the first looks were disturbed
            self.begin(min(_MOST_RUNS, math.ceil(self.count * _BATCH_S / shortest)))
            return False
        self.look = math.ceil(count * _GROWTH)
        low, high = interval(self.ratios)
        return high <= _NARROW * low or high < 1

    def result(self) -> dict[str, float]:
        low, high = interval(self.ratios)
        return {
            "seconds": statistics.median(self.ours),
            "default": statistics.median(self.theirs),
            "gain": statistics.median(self.ratios),
            "low": low,
            "high": high,
            "pairs": len(self.ours),
        }
