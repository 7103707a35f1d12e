"""The choices that end soonest, by dynamic programming over the frontier of the program.

After each operator only this matters for the rest: how the tensors lie that are still to be read,
which devices know of them, the open NPU region (`timeline.State`), and the clocks. So all ways to
get there are sorted by state, and of each state only those are kept that no other beats on every
clock. That is exact, because nothing ever ends sooner for starting later. Three things keep it
quick, all exact:

- a state is written relative to where the program stands, so the layers of a model that repeat
  share the work of finding what a choice does to a state;
- what no longer makes a difference is forgotten: where a cut lies that nobody reads as it is; the
  clock of a device that has to wait for another before it can do anything, which is moved up to
  that other's clock;
- a way that cannot beat the best known (`lower_bound`) is dropped. The best known comes from the
  simple plans, and from a first run that keeps few ways.

If after an operator more than `beam` ways are left, those with the least lower bound stay, and the
answer is marked as not exact; the least bound of all that went is still a bound for the optimum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from relay_passes.planner.lower_bound import LowerBound
from relay_passes.planner.problem import DEVICES, Choice, Cut, Op, Problem
from relay_passes.planner.timeline import (
    START,
    State,
    Step,
    Timeline,
    advance,
    evaluate,
    finish,
    last_readers,
    waits_of,
)

Objective = Literal["latency", "energy", "edp"]
_CLOCKS = ("gpu", "npu", "cpu")  # in the order of a way
_PAIRS = tuple((d, e) for d in DEVICES for e in DEVICES if d != e)
_NOWHERE = Cut(
    axis=-1, at=1, extent=2
)  # stands for every cut that no later operator reads as it is
_FIRST_BEAM = 24
_NEVER = float("-inf")
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


def _grid(us: float) -> float:
    """To multiples of 2**-30 µs: sums are then exact, and of equals none wins by rounding."""
    return round(us * 2**30) / 2**30


# One way to get somewhere: gpu, npu and cpu clock, joules, number of waits, of splits, a serial
# number, and (the way before it, number of the choice). In the order in which they are compared.
_Way = tuple[float, float, float, float, int, int, int, Any]


@dataclasses.dataclass(frozen=True)
class _Effect:
    """A choice in a state, as the clocks feel it: they become max-plus functions of themselves."""

    after: int  # number of the state after it
    leave: float
    waits: tuple[tuple[int, int, float], ...]
    push: tuple[float, float, float]  # of gpu, npu, cpu
    joules: float
    splits: int
    idle: tuple[tuple[int, tuple[int, ...]], ...]  # clocks that may stand where the least of these
    # others stands


class _Frontier:
    """The states of one problem, numbered, and what choices make of them."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.last_reader = last_readers(problem)
        count = len(problem.ops)
        self._numbers: dict[Any, int] = {}
        self._keys: list[Any] = []
        self._effects: dict[tuple[int, int], list[_Effect]] = {}
        waiting = problem.waiting
        self._border = waiting.border_us_per_byte > 0
        self._regions = self._border or waiting.region_us > 0
        self._live: list[tuple[int, ...]] = []  # before each operator: tensors still to be read
        for index in range(count + 1):
            self._live.append(tuple(t for t in range(index) if self.last_reader[t] >= index))
        self._readers: list[list[int]] = [[] for _ in problem.ops]
        for index, op in enumerate(problem.ops):
            for maker in op.inputs:
                self._readers[maker].append(index)
        self._cuts = [self._later_cuts(index) for index in range(count + 1)]
        self._working = [
            tuple(any(d in c.us for op in problem.ops[i:] for c in op.choices) for d in DEVICES)
            for i in range(count + 1)
        ]
        ready_at = [max(op.inputs, default=-1) + 1 for op in problem.ops]
        self._ready = [
            tuple(k for k in range(index, count) if ready_at[k] <= index)
            for index in range(count + 1)
        ]
        self._lies: dict[Any, int] = {}
        self._choices: list[Choice] = []
        contexts: dict[Any, int] = {}
        self.context = [
            contexts.setdefault(self._context(index), len(contexts)) for index in range(count)
        ]
        self.start = self._number(self._key(START, 0))

    def _later_cuts(self, index: int) -> dict[int, frozenset[Cut]]:
        """How the tensors before operator `index` may be read as they are."""
        found: dict[int, set[Cut]] = {tensor: set() for tensor in self._live[index]}
        for tensor in self._live[index]:
            for reader in self._readers[tensor]:
                if reader >= index:
                    op = self.problem.ops[reader]
                    at = op.inputs.index(tensor)
                    found[tensor] |= {c.reads[at] for c in op.choices} - {None}  # type: ignore[arg-type]
        return {tensor: frozenset(cuts) for tensor, cuts in found.items()}

    def _signature(self, op: Op, index: int) -> Any:
        """Everything of an operator that can matter, its place relative to `index`."""
        choices = tuple(
            (tuple(sorted(c.us.items())), c.reads, c.makes, c.gather_us, c.joules)
            for c in op.choices
        )
        inputs = tuple(index - tensor for tensor in op.inputs)
        return choices, inputs, op.nbytes, op.is_output

    def _context(self, index: int) -> Any:
        """Two operators of one context do the same to the same state."""
        ops, after = self.problem.ops, index + 1

        def tensors(at: int) -> Any:
            return tuple((at - t, ops[t].nbytes, ops[t].is_output) for t in self._live[at])

        return (
            self._signature(ops[index], index),
            tensors(index),
            tensors(after),
            tuple(self._cuts[after][t] for t in self._live[after]),
            frozenset(self._signature(ops[k], after) for k in self._ready[after]),
            self._working[after],
        )

    def _number(self, key: Any) -> int:
        number = self._numbers.setdefault(key, len(self._keys))
        if number == len(self._keys):
            self._keys.append(key)
        return number

    def _lie(self, tensor: int, choice: Choice, inside: bool, index: int) -> int:
        """Number of a way to lie; one for all cuts that differ for no reader to come."""
        makes = choice.makes
        if makes is not None and makes not in self._cuts[index][tensor]:
            if not (inside and self._border):  # there the share on the NPU is still to be paid
                makes = _NOWHERE
        gather = choice.gather_us if makes is not None else 0.0
        key = (tuple(sorted(choice.us)), makes, gather)
        if key not in self._lies:
            self._lies[key] = len(self._choices)
            self._choices.append(
                Choice(us=dict.fromkeys(key[0], 0.0), reads=(), makes=makes, gather_us=gather)
            )
        return self._lies[key]

    def _key(self, state: State, index: int) -> Any:
        """`state` before operator `index`, with tensors counted back from there."""
        live = self._live[index]
        seen = tuple(
            max(
                (t for t in live if on in state.lies[t].us and t < state.seen[waiter, on]),
                default=index,
            )
            for waiter, on in _PAIRS
        )
        inside: tuple[int, ...] = ()
        brought: tuple[tuple[int, float], ...] = ()
        if self._border:
            inside = tuple(sorted(index - t for t in state.inside))
            brought = tuple(sorted((index - t, share) for t, share in state.brought.items()))
        gathered = tuple(sorted((d, index - t) for d, t in state.gathered))
        behind = frozenset((d, e) for d, e in state.behind if ("cpu", e) in state.behind)
        return (
            tuple(self._lie(t, state.lies[t], t in state.inside, index) for t in live),
            tuple(index - t for t in seen),
            behind,
            state.open and self._regions,
            inside,
            brought,
            gathered,
            _grid(state.owed_us),
        )

    def state(self, number: int, index: int) -> State:
        """The state of that number before operator `index`."""
        lies, seen, behind, is_open, inside, brought, gathered, owed_us = self._keys[number]
        return State(
            {t: self._choices[lie] for t, lie in zip(self._live[index], lies, strict=True)},
            {
                pair: index - back + 1 if back else 0
                for pair, back in zip(_PAIRS, seen, strict=True)
            },
            behind,
            is_open,
            frozenset(index - back for back in inside),
            {index - back: share for back, share in brought},
            frozenset((d, index - back) for d, back in gathered),
            owed_us,
        )

    def effects(self, number: int, index: int) -> list[_Effect]:
        """What each choice of operator `index` does in that state."""
        known = self._effects.get((self.context[index], number))
        if known is None:
            state = self.state(number, index)
            known = [self._effect(state, index, c) for c in self.problem.ops[index].choices]
            self._effects[self.context[index], number] = known
        return known

    def _effect(self, state: State, index: int, choice: Choice) -> _Effect:
        after, step = advance(self.problem, self.last_reader, state, index, choice)
        push = {
            d: _grid(step.before_us[d] + step.work_us[d] + step.after_us * (d == "npu"))
            for d in step.work_us
        }
        number = self._number(self._key(after, index + 1))
        return _Effect(
            number,
            _grid(step.leave_us),
            self.priced(step),
            (push.get("gpu", 0.0), push.get("npu", 0.0), push.get("cpu", 0.0)),
            choice.joules or 0.0,
            int(choice.makes is not None),
            self._idle(after, index + 1),
        )

    def priced(self, step: Step) -> tuple[tuple[int, int, float], ...]:
        """The waits of a step: numbers of the clocks of waiter and waited for, and the price."""
        price = self.problem.waiting.wait_us
        return tuple(
            (_CLOCKS.index(d), _CLOCKS.index(e), _grid(price[d, e])) for d, e in step.waits
        )

    def _idle(self, state: State, index: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The devices that must wait for another before they work again, while nobody waits for
        them, and those others. A clock that is behind all of these may as well stand with the
        first of them: the device starts no sooner, and the end is no later.
        """
        working = dict(zip(DEVICES, self._working[index], strict=True))
        holding = {d for lie in state.lies.values() for d in lie.us}
        result = []
        for device in _CLOCKS:
            others = [d for d in _CLOCKS if d != device and (working[d] or d in holding)]
            wanted = ("cpu", device) in state.behind or (device == "cpu" and state.owed_us > 0)
            if device == "npu" and self._border:  # what it still has to write out takes it time
                wanted |= any(not self.problem.ops[t].is_output for t in state.inside)
            for tensor, lie in state.lies.items():
                if device in lie.us:
                    wanted |= any(state.seen[d, device] <= tensor for d in others)
            if others and not wanted and self._must_wait(state, index, device):
                result.append((_CLOCKS.index(device), tuple(_CLOCKS.index(d) for d in others)))
        return tuple(result)

    def _must_wait(self, state: State, index: int, device: str) -> bool:
        """Whatever can run next on `device` reads something that it has not seen."""
        for ready in self._ready[index]:
            op = self.problem.ops[ready]
            for choice in op.choices:
                if device in choice.us:
                    waits = waits_of(state, op.inputs, choice)
                    if not any(waiter == device for waiter, _ in waits):
                        return False
        return True


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
        self.frontier = _Frontier(problem)
        self.lower_bound = LowerBound(problem)
        self._by_energy = by_energy  # joules count beside the clocks
        self._flat = not by_energy and not any(
            "cpu" in c.us for op in problem.ops for c in op.choices
        )
        least = [min((c.joules or 0.0) for c in op.choices) for op in problem.ops]
        self._joules_left = [sum(least[index:]) for index in range(len(least) + 1)]
        self.bound_us = self.lower_bound.of_all()
        self.bound = self.bound_us * (self._joules_left[0] if by_energy else 1.0)

    def run(self, beam: int, known: float) -> tuple[list[int] | None, bool, float]:
        """Best choices, none if nothing beats `known`; whether all was seen; a bound if not."""
        ways: dict[int, list[_Way]] = {self.frontier.start: [(0.0, 0.0, 0.0, 0.0, 0, 0, 0, None)]}
        dropped = float("inf")
        for index in range(len(self.problem.ops)):
            after: dict[int, list[_Way]] = {}
            for number, front in ways.items():
                for choice, effect in enumerate(self.frontier.effects(number, index)):
                    _extend(
                        after.setdefault(effect.after, []), front, effect, choice, self._by_energy
                    )
            ways = {n: _undominated(front, self._flat) for n, front in after.items()}
            ways, least = self._prune(ways, index + 1, beam, known)
            dropped = min(dropped, least)
        return self._end(ways, dropped)

    def _prune(
        self, ways: dict[int, list[_Way]], index: int, beam: int, known: float
    ) -> tuple[dict[int, list[_Way]], float]:
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
        left: dict[int, list[_Way]] = {}
        for position in keep.tolist():
            number, way = everything[position]
            left.setdefault(number, []).append(way)
        return left, least

    def _end(
        self, ways: dict[int, list[_Way]], dropped: float
    ) -> tuple[list[int] | None, bool, float]:
        found: list[tuple[float, int, int, list[int]]] = []
        count = len(self.problem.ops)
        for number, front in ways.items():
            step = finish(self.frontier.state(number, count))
            waits = self.frontier.priced(step)
            owed = _grid(step.before_us["cpu"])
            for way in front:
                cpu = max([way[2], *(way[on] + us for _, on, us in waits)]) + owed
                value = max(cpu, way[0], way[1])
                if self._by_energy:
                    value *= way[3]
                found.append((value, way[4] + len(waits), way[5], _path(way)))
        best = min(found, default=None)
        return (best[3] if best else None), dropped == float("inf"), dropped


def _path(way: _Way) -> list[int]:
    result = []
    link = way[7]
    while link is not None:
        link, choice = link
        result.append(choice)
    return result[::-1]


def _extend(
    out: list[_Way], front: list[_Way], effect: _Effect, choice: int, by_energy: bool
) -> None:
    """The ways of `front` with one more operator, into `out`."""
    leave, (push_gpu, push_npu, push_cpu) = effect.leave, effect.push
    joules = effect.joules if by_energy else 0.0
    more_waits, more_splits = len(effect.waits), effect.splits
    for serial, (gpu, npu, cpu, spent, waits, splits, _, link) in enumerate(front, len(out)):
        if effect.waits:
            npu += leave
            before = (gpu, npu, cpu)
            for waiter, on, us in effect.waits:
                until = before[on] + us
                if waiter == 0:
                    gpu = max(gpu, until)
                elif waiter == 1:
                    npu = max(npu, until)
                else:
                    cpu = max(cpu, until)
        gpu, npu, cpu = gpu + push_gpu, npu + push_npu, cpu + push_cpu
        if effect.idle:
            clock = [gpu, npu, cpu]
            for device, others in effect.idle:
                clock[device] = max(clock[device], min(clock[other] for other in others))
            gpu, npu, cpu = clock
        out.append(
            (
                gpu,
                npu,
                cpu,
                spent + joules,
                waits + more_waits,
                splits + more_splits,
                serial,
                (link, choice),
            )
        )


def _check(problem: Problem, objective: Objective, gpu_share: float) -> None:
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
        return dataclasses.replace(choice, us=us)

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
    beam: int = 2000,
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

    Raises `ValueError` for a `gpu_share` or objective that does not exist, and where energy counts
    and the joules of some choice are not known.
    """
    _check(problem, objective, gpu_share)
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
    for width in (min(beam, _FIRST_BEAM), beam):
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
