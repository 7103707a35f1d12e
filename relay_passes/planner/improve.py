"""A plan made better where the search could not try everything.

A search that keeps few ways drops a way that looks bad early and would have paid later. In the
finished plan three things are tried: another boundary for all operators that are cut at one, since
a chain that stays cut must move as a whole; every other choice of all operators that are alike, as
layers make them, at once; and every other choice of every operator. The last two bring no new
boundary of rows in: it would be one more place where both devices meet.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from fractions import Fraction

from relay_passes.planner.frontier import Frontier
from relay_passes.planner.problem import Choice, Problem
from relay_passes.planner.solve import total_us

_SLACK_US = 1e-6  # a change that gains less is none


def improved(problem: Problem, choices: Sequence[int], *, most_steps: int) -> tuple[int, ...]:
    """`choices` with its boundaries moved, and operators then given their best choice in turn.

    Args:
        problem: what is planned.
        choices: a plan, one number per operator.
        most_steps: operators to evaluate at most, in all trials together.

    Ensures: never ends later than `choices`; the same plan for the same arguments.
    """
    search = _Search(problem, list(choices), most_steps)
    search.move_boundaries()
    alike = [group for group in _alike(problem) if len(group) > 1]
    singles = [[index] for index in range(len(problem.ops))]
    kept_back = min(most_steps // 2, search.steps_of(singles))
    while search.change(alike, leaving=kept_back):
        pass
    search.change(singles)
    return tuple(search.best)


def _alike(problem: Problem) -> list[list[int]]:
    """Operators with equal choices that stand alike to those that they read."""
    groups = collections.defaultdict(list)
    for index, op in enumerate(problem.ops):
        choices = tuple((frozenset(c.us.items()), c.reads, c.makes, c.early) for c in op.choices)
        groups[choices, tuple(index - maker for maker in op.inputs)].append(index)
    return list(groups.values())


class _Search:
    """The best plan so far, and how many operators may still be evaluated."""

    def __init__(self, problem: Problem, choices: list[int], most_steps: int) -> None:
        self.problem = problem
        self.best = choices
        self.frontier = Frontier(problem)
        self.best_us = total_us(self.frontier, choices)
        self.steps_left = most_steps

    def _try(self, trial: list[int]) -> None:
        self.steps_left -= len(trial)
        if self.steps_left < 0:
            return
        us = total_us(self.frontier, trial)
        if us < self.best_us - _SLACK_US:
            self.best, self.best_us = trial, us

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
        """The NPU's share of an operator's result; None where it is in one part."""
        return _share(self.problem.ops[index].choices[self.best[index]])

    def _moved(self, index: int, at: Fraction) -> dict[Fraction, int]:
        """The choices that are like an operator's own but for the boundary `at`, by theirs."""
        choices = self.problem.ops[index].choices
        own = choices[self.best[index]]
        found: dict[Fraction, int] = {}
        for number, choice in enumerate(choices):
            to = _share(choice)
            if to is not None and to != at and _form(choice, to) == _form(own, at):
                found.setdefault(to, number)
        return found

    def steps_of(self, groups: Iterable[Sequence[int]]) -> int:
        """Operators that `change` evaluates at most."""
        ops = self.problem.ops
        return len(ops) * sum(len(ops[group[0]].choices) for group in groups)

    def change(self, groups: Iterable[Sequence[int]], *, leaving: int = 0) -> bool:
        """Give all operators of a group another choice at once; whether that made the plan better.

        Groups with most ways to run come first: a limit then cuts off the least of it. `leaving`:
        operators that may still be evaluated after it.
        """
        before = self.best_us
        ops = self.problem.ops
        chosen = [op.choices[number] for op, number in zip(ops, self.best, strict=True)]
        known = {choice.activation_share for choice in chosen} | {None}
        cuts = {choice.cut for choice in chosen}  # of columns, too: who reads them may go along
        for group in sorted(groups, key=lambda group: -len(ops[group[0]].choices)):
            for number, choice in enumerate(ops[group[0]].choices):
                if self.steps_left <= leaving:
                    break
                if choice.activation_share not in known and choice.cut not in cuts:
                    continue
                trial = list(self.best)
                for index in group:
                    trial[index] = number
                if trial != self.best:
                    self._try(trial)
        return self.best_us < before


def _share(choice: Choice) -> Fraction | None:
    return None if choice.cut is None else choice.cut.share


def _form(choice: Choice, at: Fraction) -> tuple[object, ...]:
    """What is left of a choice without its boundary `at`."""
    cuts = [
        cut if cut is None or cut.share != at else (cut.axis, cut.extent)
        for cut in (choice.makes, choice.early, *choice.reads)
    ]
    return (choice.kind, frozenset(choice.us), *cuts)
