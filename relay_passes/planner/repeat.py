"""Choices for a few layers as choices for all of them.

Which of the few a layer follows is tried: those at the ends start and end as the whole program
does, and of two neighbours in the middle one may hand its results on in a form that the next does
not take. The whole program is evaluated for each, so what comes out is the whole's own time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from relay_passes.planner.problem import Choice, Problem
from relay_passes.planner.timeline import Timeline, evaluate


def repeated(
    problem: Problem,
    chosen: Sequence[Choice],
    likes: Sequence[Sequence[int]],
    value: Callable[[Sequence[int], Timeline], float] = lambda _, timeline: timeline.total_us,
    others: Iterable[Sequence[int]] = (),
) -> tuple[tuple[int, ...], Timeline]:
    """The best way to give every operator of `problem` the choice of one that it is like.

    Args:
        problem: the whole program.
        chosen: what the operators of the short one do.
        likes: the ways to choose from: for each operator of the whole, one of the short program. A
            way in which an operator cannot do as that one does is left out; in the first all can.
        value: what is to be least.
        others: choices for the whole program that the answer must be no worse than.
    """
    found: list[tuple[float, int, tuple[int, ...], Timeline]] = []
    numbers = [{choice.place: n for n, choice in enumerate(op.choices)} for op in problem.ops]
    tried = (
        [own.get(chosen[i].place) for own, i in zip(numbers, way, strict=True)] for way in likes
    )
    ways = [tuple(n for n in way if n is not None) for way in tried if None not in way]
    for way in dict.fromkeys([*ways, *map(tuple, others)]):
        timeline = evaluate(problem, way)
        found.append((value(way, timeline), len(found), way, timeline))
    _, _, best, timeline = min(found)
    return best, timeline
