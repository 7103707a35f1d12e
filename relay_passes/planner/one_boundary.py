"""Plans of a GPU and cuts at one share: good places to begin, and found at once.

Where every layer can be cut at any of several boundaries, a search that keeps few ways ends with
another boundary here than there, and each change of boundary is a meeting of both devices. With one
boundary to choose there are few ways, so the few that are kept are the good ones. Columns are held
to the share of the rows too, although both devices meet before and behind them at any share: left
free, they made the plans that were found first better, and those made of them worse. Nor is
anything the NPU's alone: with a part of nearly everything it has enough, and what is left to choose
from is little.
"""

from __future__ import annotations

import collections
import dataclasses
from fractions import Fraction

from relay_passes.planner.problem import Choice, Problem
from relay_passes.planner.solve import solve

_MOST_SHARES = 3  # those at which most can be cut
_BEAM = 16


def one_boundary_plans(problem: Problem) -> list[tuple[int, ...]]:
    """For each share at which most operators can be cut without cutting a weight, a plan.

    It has other shares, or the NPU alone, only where an operator has no choice.
    """
    shares: collections.Counter[Fraction] = collections.Counter()
    for op in problem.ops:
        shares.update({share for choice in op.choices if (share := choice.activation_share)})
    return [_plan(problem, share) for share, _ in shares.most_common(_MOST_SHARES)]


def _plan(problem: Problem, share: Fraction) -> tuple[int, ...]:
    def allowed(choice: Choice) -> bool:
        if choice.cut is None:
            return choice.device != "npu"
        return choice.cut.share == share

    kept = [
        [n for n, choice in enumerate(op.choices) if allowed(choice)] or [*range(len(op.choices))]
        for op in problem.ops
    ]
    ops = tuple(
        dataclasses.replace(op, choices=tuple(op.choices[n] for n in numbers))
        for op, numbers in zip(problem.ops, kept, strict=True)
    )
    found = solve(dataclasses.replace(problem, ops=ops), beam=_BEAM)
    return tuple(numbers[n] for numbers, n in zip(kept, found.choices, strict=True))
