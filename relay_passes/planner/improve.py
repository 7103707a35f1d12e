"""A plan made better where the search could not try everything.

A search that keeps few ways drops a way that looks bad early and would have paid later. In the
finished plan two things are tried: another boundary for all operators that are cut at one, since a
chain that stays cut must move as a whole, and every other choice of every operator (a sentence
encoder on a host: 3 per cent, half a second).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from relay_passes.planner.problem import Choice, Cut, Problem
from relay_passes.planner.timeline import Timeline, evaluate

_SLACK_US = 1e-6  # a change that gains less is none


def improved(
    problem: Problem, choices: Sequence[int], *, most_steps: int
) -> tuple[tuple[int, ...], Timeline]:
    """`choices` with its boundaries moved, and each operator then given its best choice in turn.

    Args:
        problem: what is planned.
        choices: a plan, one number per operator.
        most_steps: operators to evaluate at most, in all trials together.

    Ensures: never ends later than `choices`; the same plan for the same arguments.
    """
    search = _Search(problem, list(choices), most_steps)
    search.move_boundaries()
    search.change_one_by_one()
    return tuple(search.best), search.timeline


class _Search:
    """The best plan so far, and how many operators may still be evaluated."""

    def __init__(self, problem: Problem, choices: list[int], most_steps: int) -> None:
        self.problem = problem
        self.best = choices
        self.timeline = evaluate(problem, choices)
        self.steps_left = most_steps

    def _try(self, trial: list[int]) -> None:
        self.steps_left -= len(trial)
        if self.steps_left < 0:
            return
        timeline = evaluate(self.problem, trial)
        if timeline.total_us < self.timeline.total_us - _SLACK_US:
            self.best, self.timeline = trial, timeline

    def move_boundaries(self) -> None:
        """Every boundary of the plan to every other one that its operators can have."""
        for at in sorted({share for share in map(self._share, range(len(self.best))) if share}):
            cut_there = [i for i in range(len(self.best)) if self._share(i) == at]
            ways = {i: self._moved(i, at) for i in cut_there}
            for to in sorted({to for moved in ways.values() for to in moved}):
                trial = list(self.best)
                for i, moved in ways.items():
                    trial[i] = moved.get(to, trial[i])
                self._try(trial)

    def _share(self, index: int) -> Fraction | None:
        """The NPU's share of an operator's result; None where it is not cut."""
        return _share(self.problem.ops[index].choices[self.best[index]].makes)

    def _moved(self, index: int, at: Fraction) -> dict[Fraction, int]:
        """The choices that are like an operator's own but for the boundary `at`, by theirs."""
        choices = self.problem.ops[index].choices
        own = choices[self.best[index]]
        found: dict[Fraction, int] = {}
        for number, choice in enumerate(choices):
            to = _share(choice.makes)
            if to is not None and to != at and _form(choice, to) == _form(own, at):
                found.setdefault(to, number)
        return found

    def change_one_by_one(self) -> None:
        """Operators with most ways to run come first: a limit then cuts off the least of it."""
        ops = self.problem.ops
        for index in sorted(range(len(ops)), key=lambda i: -len(ops[i].choices)):
            for number in range(len(ops[index].choices)):
                if number != self.best[index] and self.steps_left >= 0:
                    trial = list(self.best)
                    trial[index] = number
                    self._try(trial)


def _share(cut: Cut | None) -> Fraction | None:
    return None if cut is None else Fraction(cut.at, cut.extent)


def _form(choice: Choice, at: Fraction) -> tuple[object, ...]:
    """What is left of a choice without its boundary `at`."""
    cuts = [
        cut if _share(cut) != at or cut is None else (cut.axis, cut.extent)
        for cut in (choice.makes, *choice.reads)
    ]
    return (choice.kind, frozenset(choice.us), *cuts)
