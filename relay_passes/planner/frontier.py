"""The states that a program can be in between two operators, and where a choice leads.

A state is written as a key: tensors are counted back from where the program stands, so the layers
of a model that repeat share their states, and the work of finding what a choice does to them.
What makes no difference any more is left out of the key.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from relay_passes.planner.problem import DEVICES, Choice, Cut, Op, Problem
from relay_passes.planner.timeline import (
    START,
    State,
    Step,
    advance,
    last_readers,
    waits_of,
)

CLOCKS = ("gpu", "npu", "cpu")  # in the order in which `Effect` names them
_PAIRS = tuple((d, e) for d in DEVICES for e in DEVICES if d != e)
_NOWHERE = Cut(
    axis=-1, at=1, extent=2
)  # stands for every cut that no later operator reads as it is


def grid(us: float) -> float:
    """To multiples of 2**-30 µs: sums are then exact, and of equals none wins by rounding."""
    return round(us * 2**30) / 2**30


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a choice does in a state: where it leads, and what becomes of the clocks."""

    after: int  # number of the state after it
    leave: float
    waits: tuple[tuple[int, int, float], ...]
    push: tuple[float, float, float]  # of gpu, npu, cpu
    joules: float
    splits: int
    idle: tuple[tuple[int, tuple[int, ...]], ...]  # clocks that may stand where the least of these
    # others stands


class Frontier:
    """The states of one problem, numbered, and what choices make of them."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._last_reader = last_readers(problem)
        count = len(problem.ops)
        self._numbers: dict[Any, int] = {}
        self._keys: list[Any] = []
        self._effects: dict[tuple[int, int], list[Effect]] = {}
        self._one_effect: dict[tuple[int, int, int], Effect] = {}
        waiting = problem.waiting
        self._border = waiting.border_us_per_byte > 0
        self._regions = self._border or waiting.region_us > 0
        self._live: list[tuple[int, ...]] = []  # before each operator: tensors still to be read
        for index in range(count + 1):
            self._live.append(tuple(t for t in range(index) if self._last_reader[t] >= index))
        self._readers: list[list[int]] = [[] for _ in problem.ops]
        for index, op in enumerate(problem.ops):
            for maker in op.inputs:
                self._readers[maker].append(index)
        self._cuts = [self._later_cuts(index) for index in range(count + 1)]
        self._working: list[frozenset[str]] = [frozenset()]  # at the end, then backwards
        for op in reversed(problem.ops):
            self._working.append(self._working[-1].union(*(choice.us for choice in op.choices)))
        self._working.reverse()
        ready_at = [max(op.inputs, default=-1) + 1 for op in problem.ops]
        self._ready = [
            tuple(k for k in range(index, count) if ready_at[k] <= index)
            for index in range(count + 1)
        ]
        self._lies: dict[Any, int] = {}
        self._choices: list[Choice] = []
        # By identity of the choice: those of the problem and of `_choices`, which all stay.
        self._lie_of: dict[tuple[int, int, int], int] = {}
        self._idle_in: dict[tuple[int, int], tuple[tuple[int, tuple[int, ...]], ...]] = {}
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
            (
                tuple(sorted(c.us.items())),
                *(c.reads, c.makes, c.gather_us, c.joules, c.alone_us, c.early, c.late_us),
            )
            for c in op.choices
        )
        inputs = tuple(index - tensor for tensor in op.inputs)
        mates = tuple(index - tensor for tensor in op.mates)
        return choices, inputs, mates, op.nbytes, op.is_output, op.breaks

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

    def _lie(self, tensor: int, choice: Choice, index: int) -> int:
        """Number of a way to lie; one for all cuts that differ for no reader to come."""
        same = (id(choice), tensor, index)
        known = self._lie_of.get(same)
        if known is not None:
            return known
        makes = choice.makes
        if makes is not None and makes not in self._cuts[index][tensor]:
            makes = _NOWHERE
        gather = choice.gather_us if makes is not None else 0.0
        # A part that is there early is of use to the next operator alone.
        early, late_us = (choice.early, choice.late_us) if tensor == index - 1 else (None, 0.0)
        key = (tuple(sorted(choice.us)), makes, gather, early, late_us)
        if key not in self._lies:
            self._lies[key] = len(self._choices)
            self._choices.append(
                Choice(
                    us=dict.fromkeys(key[0], late_us),
                    reads=(),
                    makes=makes,
                    gather_us=gather,
                    early=early,
                    late_us=late_us,
                )
            )
        self._lie_of[same] = self._lies[key]
        return self._lies[key]

    def _key(self, state: State, index: int) -> Any:
        """`state` before operator `index`, with tensors counted back from there."""
        live = self._live[index]
        newest = dict.fromkeys(_PAIRS, index)  # that the waiter has seen; `index` stands for none
        for tensor in live:
            for on in state.lies[tensor].us:
                for waiter in DEVICES:
                    if waiter != on and tensor < state.seen[waiter, on]:
                        newest[waiter, on] = tensor
        inside: tuple[int, ...] = ()
        brought: tuple[tuple[int, float], ...] = ()
        if self._border:
            inside = tuple(sorted(index - t for t in state.inside))
            brought = tuple(sorted((index - t, share) for t, share in state.brought.items()))
        gathered = tuple(sorted((d, index - t) for d, t in state.gathered))
        behind = frozenset((d, e) for d, e in state.behind if ("cpu", e) in state.behind)
        return (
            tuple(self._lie(t, state.lies[t], index) for t in live),
            tuple(index - tensor for tensor in newest.values()),
            behind,
            state.open and self._regions,
            inside,
            brought,
            gathered,
            grid(state.owed_us),
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

    def effects(self, number: int, index: int) -> list[Effect]:
        """What each choice of operator `index` does in that state."""
        known = self._effects.get((self.context[index], number))
        if known is None:
            count = len(self.problem.ops[index].choices)
            known = [self.effect(number, index, choice) for choice in range(count)]
            self._effects[self.context[index], number] = known
        return known

    def effect(self, number: int, index: int, choice: int) -> Effect:
        """What one choice of operator `index` does in that state."""
        place = self.context[index], number, choice
        known = self._one_effect.get(place)
        if known is None:
            state = self.state(number, index)
            known = self._effect(state, index, self.problem.ops[index].choices[choice])
            self._one_effect[place] = known
        return known

    def _settle(self, state: State, index: int) -> tuple[State, float]:
        """Write out at once what is sure to leave the open region: parts of tensors that nobody
        reads as they are cut, because the next to read one closes the region first. The NPU's
        clock is then early by that much until the region closes, where nobody looks at it.
        """
        sure = set()
        written_us = 0.0
        for tensor in state.inside:
            cut = state.lies[tensor].makes
            if cut is not None and cut not in self._cuts[index][tensor]:
                sure.add(tensor)
                op = self.problem.ops[tensor]
                if not op.is_output:
                    share = cut.at / cut.extent
                    written_us += share * op.nbytes * self.problem.waiting.border_us_per_byte
        if sure:
            state = dataclasses.replace(state, inside=state.inside - sure)
        return state, written_us

    def _effect(self, state: State, index: int, choice: Choice) -> Effect:
        after, step = advance(self.problem, self._last_reader, state, index, choice)
        written_us = 0.0
        if self._border and after.inside:
            after, written_us = self._settle(after, index + 1)
        push = {d: step.before_us[d] + step.work_us[d] for d in step.work_us}
        push = {d: grid(us + (step.after_us + written_us) * (d == "npu")) for d, us in push.items()}
        number = self._number(self._key(after, index + 1))
        place = self.context[index], number
        if place not in self._idle_in:
            self._idle_in[place] = self._idle(after, index + 1)
        return Effect(
            number,
            grid(step.leave_us),
            self.priced(step),
            (push.get("gpu", 0.0), push.get("npu", 0.0), push.get("cpu", 0.0)),
            choice.joules or 0.0,
            int(choice.makes is not None),
            self._idle_in[place],
        )

    def priced(self, step: Step) -> tuple[tuple[int, int, float], ...]:
        """The waits of a step: numbers of the clocks of waiter and waited for, and the price."""
        price = self.problem.waiting.wait_us
        early = {("npu", "gpu"): step.early_us}
        return tuple(
            (CLOCKS.index(d), CLOCKS.index(e), grid(price[d, e] - early.get((d, e), 0.0)))
            for d, e in step.waits
        )

    def _idle(self, state: State, index: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The devices that must wait for another before they work again, while nobody waits for
        them, and those others. A clock that is behind all of these may as well stand with the
        first of them: the device starts no sooner, and the end is no later.
        """
        working = self._working[index]
        holding = {d for lie in state.lies.values() for d in lie.us}
        result = []
        for device in (d for d in CLOCKS if d in self._working[0]):
            others = [d for d in CLOCKS if d != device and d in working | holding]
            wanted = ("cpu", device) in state.behind or (device == "cpu" and state.owed_us > 0)
            last = state.lies.get(index - 1)
            if device == "npu" and last is not None:  # it may start before the GPU's clock
                wanted |= last.early is not None
            if device == "npu" and self._border:  # what it still has to write out takes it time
                wanted |= any(not self.problem.ops[t].is_output for t in state.inside)
            for tensor, lie in state.lies.items():
                if device in lie.us:
                    wanted |= any(state.seen[d, device] <= tensor for d in others)
            if others and not wanted and self._must_wait(state, index, device):
                result.append((CLOCKS.index(device), tuple(CLOCKS.index(d) for d in others)))
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
