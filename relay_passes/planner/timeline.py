"""When everything is done, if the program runs as chosen: the one definition of predicted time.

One clock per device. Operators come in the order of the program; for each:

1. **Waits.** A device that reads something made on another waits for that one, unless it did so
   since the thing was submitted, or hears of it from a device that did (a wait shows everything
   the other device was given before, and all that it had waited for itself). The waiter's clock
   becomes the later of its own and the other's plus `wait_us`. The two parts of a split operator
   wait at the same moment: neither sees the other's wait. What the GPU makes in two parts
   (`Choice.early`) is there for the NPU when the first is done, if it is read by the next operator.
2. **Regions.** The NPU runs jobs. A job begins with the first NPU operator after the start, after
   a wait on the NPU (results exist when a job ends), after a wait of the NPU (inputs exist when a
   job starts), or with an operator that is to begin one (`Op.breaks`), and costs `region_us`. What
   a region reads that was not made in it, and what it makes that is needed after it, crosses the
   border of the chip, each tensor once per region.
3. **Work.** Each device adds the time of its part, and of gathering where a cut result is needed
   whole, or cut otherwise, and cannot lie in one buffer (once per device and tensor). On the GPU
   an operator that could run inside a producer's kernel, but not where that is made elsewhere, or
   cut otherwise, costs `alone_us` more.

At the end the CPU waits for the outputs. Inputs of the model are there at time 0, for everybody.
In the runtime the GPU's wait for the NPU also keeps the host from submitting; here it does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from relay_passes.planner.problem import DEVICES, Choice, Cut, Op, Problem

Pair = tuple[str, str]  # waiter, on


@dataclasses.dataclass(frozen=True)
class State:
    """What the past means for the operators to come, clocks aside."""

    lies: Mapping[int, Choice]  # how each tensor was made that is still to be read
    seen: Mapping[Pair, int]  # the operators before this one that `waiter` knows done on `on`
    behind: frozenset[Pair] = frozenset()  # `waiter` has not seen all model outputs made on `on`
    open: bool = False  # the NPU's region can take another operator
    inside: frozenset[int] = frozenset()  # tensors in `lies` made (partly) in the open region
    brought: Mapping[int, float] = dataclasses.field(default_factory=dict)  # tensor -> share of it
    # that the open region read from outside
    gathered: frozenset[tuple[str, int]] = frozenset()  # device, tensor
    owed_us: float = 0.0  # of gathering outputs, by the CPU, at the end


START = State({}, {(d, e): 0 for d in DEVICES for e in DEVICES if d != e})


@dataclasses.dataclass(frozen=True)
class Step:
    """What one operator does to the clocks, in this order."""

    leave_us: float  # the NPU writes out what its ending region made
    waits: tuple[Pair, ...]  # all against the clocks as they are after `leave_us`
    before_us: Mapping[str, float]  # region, border and gathering, device by device
    work_us: Mapping[str, float]
    after_us: float = 0.0  # the NPU writes out its part of a model output
    opens: bool = False  # a region begins
    border_bytes: float = 0.0
    early_us: float = 0.0  # before the GPU's clock, what the NPU waits for on it is done


def last_readers(problem: Problem) -> list[int]:
    """The last operator that reads each operator's result; -1 where none does."""
    last = [-1] * len(problem.ops)
    for index, op in enumerate(problem.ops):
        for maker in op.inputs:
            last[maker] = index
    return last


def _npu_share(cut: Cut | None) -> float:
    return 1.0 if cut is None else cut.at / cut.extent


def joins_kernel(lies: Mapping[int, Choice], op: Op, choice: Choice) -> bool:
    """Whether the GPU's part runs inside the kernel of one that it reads.

    `lies`: how each of `op.inputs` was made.
    """
    return any(
        tensor in op.mates and "gpu" in lies[tensor].us and lies[tensor].makes == read
        for tensor, read in zip(op.inputs, choice.reads, strict=True)
    )


def _needed_from(device: str, lie: Choice, read: Cut | None) -> list[str]:
    """The other devices whose part of a tensor `device` reads."""
    if lie.makes is not None and read == lie.makes:
        return []
    return [maker for maker in lie.us if maker != device]


def _fewest(newest: Mapping[str, int], seen: Mapping[Pair, int]) -> list[str]:
    """The devices of `newest`, or the one that has seen what is wanted of the others."""
    for on in sorted(newest):
        if all(seen[on, other] > newest[other] for other in newest if other != on):
            return [on]
    return sorted(newest)


def waits_of(state: State, inputs: Sequence[int], choice: Choice) -> list[Pair]:
    """The waits that `choice` needs before it, in the order in which waiters stand in DEVICES."""
    waits = []
    for device in (d for d in DEVICES if d in choice.us):
        newest: dict[str, int] = {}  # maker -> the newest operator on it that is to be seen
        for tensor, read in zip(inputs, choice.reads, strict=True):
            for maker in _needed_from(device, state.lies[tensor], read):
                if state.seen[device, maker] <= tensor:
                    newest[maker] = max(tensor, newest.get(maker, -1))
        if len(newest) > 1:
            waits += [(device, on) for on in _fewest(newest, state.seen)]
        else:
            waits += [(device, on) for on in newest]
    return waits


def _early_us(state: State, op: Op, index: int, choice: Choice) -> float:
    """How long before the GPU's clock the NPU's part of what was made last on it was done.

    All else that the operator reads was made before that, so the wait is for this part alone.
    """
    last = state.lies.get(index - 1)
    if last is None or last.early is None or "npu" not in choice.us:
        return 0.0
    reads = dict(zip(op.inputs, choice.reads, strict=True))
    return last.late_us if reads.get(index - 1) == last.early else 0.0


def advance(
    problem: Problem, last_reader: Sequence[int], state: State, index: int, choice: Choice
) -> tuple[State, Step]:
    """Operator `index` run as `choice`: the state after it, and what it does to the clocks."""
    op, waiting = problem.ops[index], problem.waiting
    border = waiting.border_us_per_byte
    waits = waits_of(state, op.inputs, choice)
    seen, behind = dict(state.seen), set(state.behind)
    for waiter, on in waits:
        seen[waiter, on] = index
        behind.discard((waiter, on))
        for other in DEVICES:
            if other not in (waiter, on):
                seen[waiter, other] = max(seen[waiter, other], state.seen[on, other])
                if (on, other) not in state.behind:
                    behind.discard((waiter, other))
    is_open, inside, brought = state.open, set(state.inside), dict(state.brought)
    border_bytes = leave_us = 0.0
    broken = op.breaks and "npu" in choice.us and is_open
    if broken or any("npu" in pair for pair in waits):
        for tensor in inside:
            if not problem.ops[tensor].is_output:  # else it was written when it was made
                share = _npu_share(state.lies[tensor].makes)
                border_bytes += share * problem.ops[tensor].nbytes
        leave_us = border_bytes * border
        is_open, inside, brought = False, set(), {}

    before_us = dict.fromkeys(choice.us, 0.0)
    gathered, owed_us = set(state.gathered), state.owed_us
    for device in before_us:
        for tensor, read in zip(op.inputs, choice.reads, strict=True):
            lie = state.lies[tensor]
            if lie.makes in (None, read) or lie.gather_us == 0 or (device, tensor) in gathered:
                continue
            gathered.add((device, tensor))
            before_us[device] += lie.gather_us
            if device == "cpu" and problem.ops[tensor].is_output:
                owed_us -= lie.gather_us
    if choice.alone_us and "gpu" in choice.us and not joins_kernel(state.lies, op, choice):
        before_us["gpu"] += choice.alone_us
    opens = "npu" in choice.us and not is_open
    if "npu" in choice.us:
        is_open = True
        before_us["npu"] += waiting.region_us * opens
        for tensor, read in zip(op.inputs, choice.reads, strict=True):
            share = _npu_share(read)
            if tensor in inside:
                lie = state.lies[tensor]
                own = lie.makes is None or lie.makes == read
                share = 0.0 if own else min(share, 1 - _npu_share(lie.makes))
            more = max(0.0, share - brought.get(tensor, 0.0))
            if more:
                brought[tensor] = share
                border_bytes += more * problem.ops[tensor].nbytes
                before_us["npu"] += more * problem.ops[tensor].nbytes * border
    after_us = 0.0
    if op.is_output:
        behind |= {(d, e) for e in choice.us for d in DEVICES if d != e and e != "cpu"}
        owed_us += choice.gather_us if choice.makes is not None else 0.0
        if "npu" in choice.us:
            border_bytes += _npu_share(choice.makes) * op.nbytes
            after_us = _npu_share(choice.makes) * op.nbytes * border

    lies = {t: lie for t, lie in state.lies.items() if last_reader[t] > index}
    if last_reader[index] > index:
        lies[index] = choice
        if "npu" in choice.us:
            inside.add(index)
    early_us = _early_us(state, op, index, choice)
    step = Step(
        leave_us, tuple(waits), before_us, choice.us, after_us, opens, border_bytes, early_us
    )
    after = State(
        lies,
        seen,
        frozenset(behind),
        is_open,
        frozenset(inside & lies.keys()),
        {t: share for t, share in brought.items() if t in lies},
        frozenset((d, t) for d, t in gathered if t in lies),
        owed_us,
    )
    return after, step


def finish(state: State) -> Step:
    """The CPU waits for the outputs, and gathers those that lie in two buffers."""
    wanted = {on: 0 for on in ("gpu", "npu") if ("cpu", on) in state.behind}
    seen = {pair: int(pair not in state.behind) for pair in (("gpu", "npu"), ("npu", "gpu"))}
    waits = tuple(("cpu", on) for on in _fewest(wanted, seen))
    return Step(0.0, waits, {"cpu": state.owed_us}, {})


@dataclasses.dataclass(frozen=True)
class Wait:
    """One device waits for another."""

    waiter: str
    on: str
    op: int  # before this operator; the number of operators for the waits at the end
    us: float  # that the waiter stands still


@dataclasses.dataclass(frozen=True)
class Part:
    """What one device does of one operator: gathering and border included, region start not."""

    op: int
    device: str
    start_us: float
    end_us: float


@dataclasses.dataclass(frozen=True)
class Timeline:
    """A program's predicted run."""

    total_us: float
    busy_us: Mapping[str, float]  # device -> all but waiting
    waits: tuple[Wait, ...]
    regions: tuple[tuple[int, ...], ...]  # the operators of each NPU job
    region_of: tuple[int | None, ...]  # operator -> number of its region; None: not on the NPU
    parts: tuple[Part, ...]  # in the order of the program, CPU before GPU before NPU
    border_bytes: float


def evaluate(problem: Problem, choices: Sequence[int]) -> Timeline:
    """The run of `problem` with choice number `choices[i]` for operator `i`.

    Raises `ValueError` where the numbers are not one per operator, `IndexError` where one is not
    the number of a choice.
    """
    if len(choices) != len(problem.ops):
        raise ValueError(f"{len(choices)} choices for {len(problem.ops)} operators")
    clock, busy = dict.fromkeys(DEVICES, 0.0), dict.fromkeys(DEVICES, 0.0)
    waits: list[Wait] = []
    regions: list[list[int]] = []
    region_of: list[int | None] = []
    parts: list[Part] = []
    border_bytes = 0.0

    def work(device: str, us: float) -> None:
        clock[device] += us
        busy[device] += us

    def wait(step: Step, index: int) -> None:
        work("npu", step.leave_us)
        before = dict(clock)
        for waiter, on in step.waits:
            price = problem.waiting.wait_us[waiter, on]
            if (waiter, on) == ("npu", "gpu"):
                price -= step.early_us
            until = max(clock[waiter], before[on] + price)
            waits.append(Wait(waiter, on, index, until - clock[waiter]))
            clock[waiter] = until

    last_reader = last_readers(problem)
    state = START
    for index, (op, number) in enumerate(zip(problem.ops, choices, strict=True)):
        state, step = advance(problem, last_reader, state, index, op.choices[number])
        wait(step, index)
        if step.opens:
            regions.append([])
        region_of.append(len(regions) - 1 if "npu" in step.work_us else None)
        if "npu" in step.work_us:
            regions[-1].append(index)
        for device in (d for d in DEVICES if d in step.work_us):
            start = clock[device]
            if device == "npu" and step.opens:
                start += problem.waiting.region_us
            work(device, step.before_us[device] + step.work_us[device])
            if device == "npu":
                work(device, step.after_us)
            parts.append(Part(index, device, start, clock[device]))
        border_bytes += step.border_bytes
    end = finish(state)
    wait(end, len(problem.ops))
    work("cpu", end.before_us["cpu"])
    return Timeline(
        max(clock.values()),
        busy,
        tuple(waits),
        tuple(tuple(region) for region in regions),
        tuple(region_of),
        tuple(parts),
        border_bytes,
    )
