"""A planner's answer as the steps of `simulator`: who is given what, and where somebody waits.

Waits, NPU regions and what crosses their borders are those of `relay_passes.planner.timeline`,
operator by operator; only the clocks are the simulator's. A wait of the GPU is one of the host,
which submits the GPU's work; a wait of the NPU is one of its worker.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from hetero_tvm.simulator import Step, Wait, Work
from relay_passes.planner.problem import Choice, Problem
from relay_passes.planner.timeline import START, advance, finish, last_readers


@dataclasses.dataclass(frozen=True)
class Load:
    """One device's part of an operator."""

    us: float  # alone on the SoC
    nbytes: float  # from and to memory


Loads = Sequence[Mapping[str, Load]]  # of each operator, device -> its part


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What the host does, in order."""

    steps: tuple[Step, ...]
    regions: int  # jobs of the NPU
    border_bytes: float  # that they read and write outside the chip


def program(
    problem: Problem, choices: Sequence[int], loads: Loads, names: Sequence[str]
) -> Program:
    """The steps that run `problem` with choice number `choices[i]` for operator `i`.

    Args:
        problem: operators in the order of the program.
        choices: what `relay_passes.planner.solve` answers.
        loads: of the chosen parts, without waiting, regions, borders and gathering.
        names: of the operators.
    """
    readers, state = last_readers(problem), START
    price, region_us = problem.waiting.border_us_per_byte, problem.waiting.region_us
    steps: list[Step] = []
    last_npu = -1  # where in `steps` the NPU was given something last
    regions, border = 0, 0.0
    for index, number in enumerate(choices):
        choice = problem.ops[index].choices[number]
        state, step = advance(problem, readers, state, index, choice)
        if step.leave_us:
            job = steps[last_npu]
            assert isinstance(job, Work)
            steps[last_npu] = _longer(job, step.leave_us, step.leave_us / price)
        # Both parts of a split operator wait before either is given: a wait is for all.
        steps += [Wait(on) for waiter, on in step.waits if waiter != "npu" and on != "cpu"]
        for device in _order(choice):
            load, us = loads[index][device], step.before_us[device]
            nbytes = 0.0
            if device == "npu":
                us += step.after_us - region_us * step.opens
                nbytes = step.border_bytes - (step.leave_us / price if price else 0.0)
                last_npu = len(steps)
            work = Work(
                name=names[index],
                device=device,
                us=load.us + us,
                nbytes=load.nbytes + nbytes,
                opens_region=device == "npu" and step.opens,
                after_gpu=device == "npu" and ("npu", "gpu") in step.waits,
                before_late=device == "npu" and step.early_us > 0,
            )
            if choice.early is None:
                steps.append(work)
            else:
                # What the plan predicts may be for a GPU that is shared: its proportion counts.
                predicted = choice.us[device]
                late = choice.late_us / predicted if predicted else 0.5
                steps += _in_two(work, late * load.us)
        regions += step.opens
        border += step.border_bytes
    end = finish(state)
    steps += [Wait(on) for _, on in end.waits]
    if end.before_us["cpu"]:
        steps.append(Work(name="gather outputs", device="cpu", us=end.before_us["cpu"]))
    return Program(steps=tuple(steps), regions=regions, border_bytes=border)


def _order(choice: Choice) -> list[str]:
    """The NPU first: giving it a job takes no time of the host's, so both begin together."""
    return [device for device in ("npu", "gpu", "cpu") if device in choice.us]


def _in_two(work: Work, late_us: float) -> list[Work]:
    """`work` of the GPU, the last `late_us` of it apart."""
    assert 0 <= late_us <= work.us
    share = late_us / work.us if work.us else 0.5
    parts = ((1 - share, False), (share, True))
    return [
        dataclasses.replace(work, us=part * work.us, nbytes=part * work.nbytes, late=late)
        for part, late in parts
    ]


def _longer(job: Work, us: float, nbytes: float) -> Work:
    return dataclasses.replace(job, us=job.us + us, nbytes=job.nbytes + nbytes)


def bounded(steps: Sequence[Step], stretch_us: float, launch_us: float) -> tuple[Step, ...]:
    """The steps with GPU work longer than half of a stretch in pieces, each with its own launch.

    Pieces are cut along columns, so none reads another one's weights. Half, because the queue
    should hold one piece while the one before it runs.
    """
    most = max(stretch_us / 2 - launch_us, launch_us)
    result: list[Step] = []
    for step in steps:
        if isinstance(step, Wait) or step.device != "gpu" or step.us <= stretch_us / 2:
            result.append(step)
            continue
        own = max(step.us - launch_us, 0.0)
        pieces = math.ceil(own / most)
        piece = dataclasses.replace(step, us=own / pieces + launch_us, nbytes=step.nbytes / pieces)
        result += [piece] * pieces
    return tuple(result)
