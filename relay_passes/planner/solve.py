"""The choices that end soonest, by dynamic programming over the frontier of the program.

After each operator only this matters for the rest: how the tensors lie that are still to be read,
which devices know of them, the open NPU region (`timeline.State`), and the clocks. So all ways to
get there are sorted by state, and of each state only those are kept that no other beats on every
clock. That is exact, because nothing ever ends sooner for starting later. (More knowledge does
not make a state better: who need not wait now may wait later, when the other has more to do.)

Three things keep it quick, all exact. States are relative to where the program stands, and forget
what makes no difference (`frontier`). The layers of a model repeat: what was found from some ways
serves again where the same ways come up later in time (`_Stretches`). And a way that cannot beat
the best known is dropped (`lower_bound`).

If after an operator more than `beam` ways are left, those with the least lower bound stay, and the
answer is marked as not exact; the least bound of all that went is still a bound for the optimum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from relay_passes.planner.frontier import Effect, Frontier, grid
from relay_passes.planner.lower_bound import LowerBound
from relay_passes.planner.problem import DEVICES, Choice, Op, Problem
from relay_passes.planner.timeline import Timeline, evaluate, finish

Objective = Literal["latency", "energy", "edp"]
_FIRST_BEAM = 24
_NARROW = 32  # ways; from so few the search of a repeated stretch is worth remembering
_SLACK_US = 1e-6  # below what a clock can tell; bounds are compared with it


@dataclasses.dataclass(frozen=True)
class Solution:
    """A plan, and how good it can be said to be."""

    choices: tuple[int, ...]  # for each operator the number of its choice
    timeline: Timeline
    exact: bool  # no plan is better, by the problem's own figures
    bound_us: float  # for "latency": no plan's `total_us` is less. The total itself where exact
    joules: float | None  # None: some power is not known
    value: float  # of the objective: µs, joules, or joules times µs
    bound: float  # no plan's `value` is less


# One way to get somewhere: gpu, npu and cpu clock, joules, waits and splits as one number, a serial
# number, and (that of the way before it, number of the choice). In the order they are compared.
_Way = tuple[float, float, float, float, int, int, Any]
_Ways = dict[int, list[_Way]]  # by number of the state
_WAIT = 1 << 32  # of the number that counts waits and splits


def _undominated(ways: list[_Way], flat: bool) -> list[_Way]:
    """Those that no other beats or equals on every clock (and joules); of equals the simplest."""
    ways.sort()
    kept: list[_Way] = []
    if flat:  # only GPU and NPU differ
        least = float("inf")
        for way in ways:
            if way[1] < least:
                least = way[1]
                kept.append(way)
        return kept
    for way in ways:
        _, npu, cpu, joules = way[:4]
        if not any(k[1] <= npu and k[2] <= cpu and k[3] <= joules for k in kept):
            kept.append(way)
    return kept


class _Search:
    """The dynamic programme over one problem."""

    def __init__(self, problem: Problem, by_energy: bool) -> None:
        self.problem = problem
        self.frontier = Frontier(problem)
        self.lower_bound = LowerBound(problem)
        self._by_energy = by_energy  # joules count beside the clocks
        self._flat = not by_energy and not any(
            "cpu" in choice.us for op in problem.ops for choice in op.choices
        )
        least = [min((c.joules or 0.0) for c in op.choices) for op in problem.ops]
        self._joules_left = [sum(least[index:]) for index in range(len(least) + 1)]
        self.bound_us = self.lower_bound.of_all()
        self.bound = self.bound_us * (self._joules_left[0] if by_energy else 1.0)
        contexts = self.frontier.context
        self.repeats = not by_energy and 2 * len(set(contexts)) < len(contexts)

    def run(self, beam: int, known: float) -> tuple[list[int] | None, bool, float]:
        """Best choices, none if nothing beats `known`; whether all was seen; a bound if not."""
        ways: _Ways = {self.frontier.start: [(0.0, 0.0, 0.0, 0.0, 0, 0, None)]}
        dropped = float("inf")
        stretches = _Stretches(self.frontier.context, self._flat)
        index = 0
        while index < len(self.problem.ops) and ways:
            if self.repeats:
                length, ways = stretches.known_from(index, ways)
                index += length
                if length:
                    continue
            ways = self._step(ways, index)
            index += 1
            reached = sum(map(len, ways.values()))
            if reached > beam or not self.repeats:
                ways, least = self._prune(ways, index, beam, known)
                dropped = min(dropped, least)
                if sum(map(len, ways.values())) < reached:
                    stretches.forget()
        return self._end(ways, dropped)

    def _step(self, ways: _Ways, index: int) -> _Ways:
        after: _Ways = {}
        for number, front in ways.items():
            for choice, effect in enumerate(self.frontier.effects(number, index)):
                out = after.setdefault(effect.after, [])
                _extend(out, front, effect, choice, self._by_energy)
        return {number: _undominated(front, self._flat) for number, front in after.items()}

    def _prune(self, ways: _Ways, index: int, beam: int, known: float) -> tuple[_Ways, float]:
        """What can still beat `known`, at most `beam` of it; the least bound of what was cut."""
        everything = [(number, way) for number, front in ways.items() for way in front]
        clocks = np.array([way[:4] for _, way in everything], dtype=np.float64).reshape(-1, 4)
        bounds = self.lower_bound.of_points(index, clocks[:, 2], clocks[:, 0], clocks[:, 1])
        if self._by_energy:
            bounds = bounds * (clocks[:, 3] + self._joules_left[index])
        keep = np.flatnonzero(bounds <= known * (1 + 1e-12) + _SLACK_US)
        least = float("inf")
        if len(keep) > beam:
            order = keep[np.argsort(bounds[keep], kind="stable")]
            keep, gone = np.sort(order[:beam]), order[beam:]
            least = float(bounds[gone].min())
        left: _Ways = {}
        for position in keep.tolist():
            number, way = everything[position]
            left.setdefault(number, []).append(way)
        return left, least

    def _end(self, ways: _Ways, dropped: float) -> tuple[list[int] | None, bool, float]:
        found: list[tuple[float, int, list[int]]] = []
        count = len(self.problem.ops)
        for number, front in ways.items():
            step = finish(self.frontier.state(number, count))
            waits = self.frontier.priced(step)
            owed = grid(step.before_us["cpu"])
            for way in front:
                cpu = max([way[2], *(way[on] + us for _, on, us in waits)]) + owed
                value = max(cpu, way[0], way[1])
                if self._by_energy:
                    value *= way[3]
                found.append((value, way[4] + len(waits) * _WAIT, _path(way[-1], {})[1]))
        best = min(found, default=None)
        return (best[2] if best else None), dropped == float("inf"), dropped


class _Stretches:
    """Stretches of the program that were searched before, from the same ways but for a shift.

    Layers repeat; where few ways enter one, the ways that leave it are those that left an earlier
    one, shifted in time. Clocks are multiples of `frontier.grid`, so the difference is exact.
    """

    def __init__(self, contexts: Sequence[int], flat: bool) -> None:
        self._flat = flat
        self._contexts = contexts
        self._found: dict[Any, list[tuple[Sequence[int], list[Any]]]] = {}
        self._from: tuple[int, Any, _Ways] | None = None

    def forget(self) -> None:
        """What was found since the last narrow place is not all there is."""
        self._from = None

    def known_from(self, index: int, ways: _Ways) -> tuple[int, _Ways]:
        """How many operators from `index` on are known, and the ways after them."""
        if sum(map(len, ways.values())) > _NARROW:
            return 0, ways
        flat = [(number, way) for number, front in ways.items() for way in front]
        key = self._relative(flat, flat[0][1])
        if self._from is not None:
            self._remember(index, flat)
        for contexts, leaving in self._found.get(key, ()):
            if self._contexts[index : index + len(contexts)] == contexts:
                self._from = None
                return len(contexts), self._shifted(leaving, flat)
        self._from = index, key, ways
        return 0, ways

    def _relative(self, flat: list[tuple[int, _Way]], base: _Way) -> tuple[Any, ...]:
        gpu, ties = base[0], base[4]
        cpu = 0.0 if self._flat else gpu  # a CPU without work stands at 0
        return tuple(
            (number, way[0] - gpu, way[1] - gpu, way[2] - cpu, way[4] - ties)
            for number, way in flat
        )

    def _remember(self, index: int, flat: list[tuple[int, _Way]]) -> None:
        assert self._from is not None
        start, key, ways = self._from
        entering = [way for front in ways.values() for way in front]
        known = {id(way[-1]): position for position, way in enumerate(entering)}
        leaving = []
        for relative, (_, way) in zip(self._relative(flat, entering[0]), flat, strict=True):
            leaving.append((*relative, *_path(way[-1], known)))
        self._found.setdefault(key, []).append((self._contexts[start:index], leaving))

    def _shifted(self, leaving: list[Any], flat: list[tuple[int, _Way]]) -> _Ways:
        base = flat[0][1]
        gpu, ties = base[0], base[4]
        cpu = 0.0 if self._flat else gpu
        ways: _Ways = {}
        for serial, (number, g, n, c, more_ties, parent, choices) in enumerate(leaving):
            link = flat[parent][1][-1]
            for choice in choices:
                link = (link, choice)
            way = (gpu + g, gpu + n, cpu + c, 0.0, ties + more_ties, serial, link)
            ways.setdefault(number, []).append(way)
        return ways


def _path(link: Any, known: Mapping[int, int]) -> tuple[int, list[int]]:
    """The way in `known`, by the identity of its link, that `link` comes from; choices since."""
    result: list[int] = []
    while link is not None and id(link) not in known:
        link, choice = link
        result.append(choice)
    return known.get(id(link), 0), result[::-1]


def _extend(
    out: list[_Way], front: list[_Way], effect: Effect, choice: int, by_energy: bool
) -> None:
    """The ways of `front` with one more operator, into `out`."""
    leave, (push_gpu, push_npu, push_cpu) = effect.leave, effect.push
    joules = effect.joules if by_energy else 0.0
    ties = len(effect.waits) * _WAIT + effect.splits
    for serial, (gpu, npu, cpu, spent, before, _, link) in enumerate(front, len(out)):
        npu += leave  # without a wait too: an operator that begins a region of its own accord
        if effect.waits:
            clock = (gpu, npu, cpu)
            for waiter, on, us in effect.waits:
                until = clock[on] + us
                if waiter == 0:
                    gpu = max(gpu, until)
                elif waiter == 1:
                    npu = max(npu, until)
                else:
                    cpu = max(cpu, until)
        gpu, npu, cpu = gpu + push_gpu, npu + push_npu, cpu + push_cpu
        for device, others in effect.idle:
            clock = (gpu, npu, cpu)
            until = min([clock[other] for other in others])
            if device == 0:
                gpu = max(gpu, until)
            elif device == 1:
                npu = max(npu, until)
            else:
                cpu = max(cpu, until)
        out.append((gpu, npu, cpu, spent + joules, before + ties, serial, (link, choice)))


def total_us(frontier: Frontier, choices: Sequence[int]) -> float:
    """When a plan ends, as `timeline.evaluate` says; much quicker for plans that differ little."""
    ways: list[_Way] = [(0.0, 0.0, 0.0, 0.0, 0, 0, None)]
    number = frontier.start
    for index, choice in enumerate(choices):
        effect = frontier.effect(number, index, choice)
        before, ways, number = ways, [], effect.after
        _extend(ways, before, effect, choice, by_energy=False)
    step = finish(frontier.state(number, len(choices)))
    clocks = ways[0][:3]
    cpu = max([clocks[2], *(clocks[on] + us for _, on, us in frontier.priced(step))])
    return max(*clocks, cpu + step.before_us["cpu"])


def _check(problem: Problem, objective: Objective, gpu_share: float, beam: int) -> None:
    if beam < 1:
        raise ValueError(f"beam is {beam}; at least one way has to be followed")
    if not 0 < gpu_share <= 1:
        raise ValueError(f"gpu_share is {gpu_share}; it must be above 0, at most 1")
    if objective not in ("latency", "energy", "edp"):
        raise ValueError(f"unknown objective {objective!r}; known: latency, energy, edp")
    if objective != "latency":
        for index, op in enumerate(problem.ops):
            for number, choice in enumerate(op.choices):
                if choice.joules is None:
                    raise ValueError(
                        f"objective {objective!r} needs the power of every device; none is known "
                        f"for operator {index}, choice {number} ({choice.device})"
                    )


def stretched(problem: Problem, gpu_share: float) -> Problem:
    """`problem` where the GPU is ours for `gpu_share` of the time: its parts take 1/share as long.

    Waits and gathering stay; so do joules, because the work is the same.
    """
    if gpu_share == 1:
        return problem

    def slower(choice: Choice) -> Choice:
        us = {d: us / gpu_share if d == "gpu" else us for d, us in choice.us.items()}
        return dataclasses.replace(
            choice,
            us=us,
            alone_us=choice.alone_us / gpu_share,
            late_us=choice.late_us / gpu_share,
        )

    ops = (
        dataclasses.replace(op, choices=tuple(slower(c) for c in op.choices)) for op in problem.ops
    )
    return dataclasses.replace(problem, ops=tuple(ops))


def _frugal(problem: Problem) -> tuple[Problem, list[list[int]]]:
    """Only the choices of each operator that take the fewest joules, and their numbers."""
    kept = []
    for op in problem.ops:
        joules = [choice.joules or 0.0 for choice in op.choices]
        kept.append([n for n, j in enumerate(joules) if j <= min(joules) * (1 + 1e-12)])
    ops = (
        dataclasses.replace(op, choices=tuple(op.choices[n] for n in numbers))
        for op, numbers in zip(problem.ops, kept, strict=True)
    )
    return dataclasses.replace(problem, ops=tuple(ops)), kept


def on_one_device(problem: Problem, device: str) -> list[int]:
    """The fastest choice on `device` alone of every operator; of any kind where it has none."""
    result = []
    for op in problem.ops:

        def rank(number: int, op: Op = op) -> tuple[bool, float]:
            choice = op.choices[number]
            return set(choice.us) != {device}, max(choice.us.values())

        result.append(min(range(len(op.choices)), key=rank))
    return result


def solve(
    problem: Problem,
    *,
    beam: int = 4000,
    objective: Objective = "latency",
    gpu_share: float = 1.0,
    others: Sequence[Sequence[int]] = (),
) -> Solution:
    """The choices with the least `objective`.

    "latency" is `timeline.evaluate`'s `total_us`; "energy" the sum of joules, and of equals the
    least latency; "edp" joules times latency. `gpu_share` (above 0, at most 1) is what the screen
    leaves of the GPU, see `stretched`; the solution's timeline is of the stretched problem. At
    most `beam` ways are followed at a time. The answer is never worse than all on the GPU, all on
    the NPU, or a plan of `others`. Of plans that are equal on every clock the one with the fewest
    waits is taken, then the one with the fewest splits, then the lowest numbers.

    Raises `ValueError` for a `gpu_share`, objective or beam that does not exist, and where energy
    counts and the joules of some choice are not known.
    """
    _check(problem, objective, gpu_share, beam)
    problem = stretched(problem, gpu_share)
    if objective == "energy":
        return _least_energy(problem, beam, others)
    by_energy = objective == "edp"

    def joules_of(choices: Sequence[int]) -> float | None:
        spent = [op.choices[n].joules for op, n in zip(problem.ops, choices, strict=True)]
        known = [joules for joules in spent if joules is not None]
        return sum(known) if len(known) == len(spent) else None

    plans: dict[tuple[int, ...], tuple[float, Timeline]] = {}

    def consider(choices: Sequence[int]) -> float:
        timeline = evaluate(problem, choices)
        value = timeline.total_us * ((joules_of(choices) or 0.0) if by_energy else 1.0)
        plans[tuple(choices)] = value, timeline
        return value

    singles = (on_one_device(problem, device) for device in DEVICES)
    known = min(consider(plan) for plan in (*others, *singles))
    search = _Search(problem, by_energy)
    exact, dropped = True, float("inf")
    for width in (beam,) if search.repeats else (min(beam, _FIRST_BEAM), beam):
        found, exact, dropped = search.run(width, known)
        if found is not None:
            known = min(known, consider(found))
        if exact:
            break

    def rank(choices: tuple[int, ...]) -> tuple[float, int, int, tuple[int, ...]]:
        value, timeline = plans[choices]
        splits = sum(
            op.choices[n].makes is not None for op, n in zip(problem.ops, choices, strict=True)
        )
        return round(value, 6), len(timeline.waits), splits, choices

    best = min(plans, key=rank)
    value, timeline = plans[best]
    exact = exact or dropped >= value
    bound = value if exact else max(search.bound, min(dropped, value))
    bound_us = search.bound_us if by_energy else bound
    return Solution(best, timeline, exact, bound_us, joules_of(best), value, bound)


def _least_energy(problem: Problem, beam: int, others: Sequence[Sequence[int]]) -> Solution:
    frugal, kept = _frugal(problem)
    fitting = [
        [numbers.index(n) for n, numbers in zip(plan, kept, strict=True)]
        for plan in others
        if all(n in numbers for n, numbers in zip(plan, kept, strict=True))
    ]
    found = solve(frugal, beam=beam, others=fitting)
    choices = tuple(numbers[n] for n, numbers in zip(found.choices, kept, strict=True))
    joules = sum(op.choices[n].joules or 0.0 for op, n in zip(problem.ops, choices, strict=True))
    return dataclasses.replace(found, choices=choices, joules=joules, value=joules, bound=joules)
