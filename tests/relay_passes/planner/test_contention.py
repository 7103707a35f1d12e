"""Who works beside whom, and what that takes; by hand, and within bounds for random plans."""

import itertools

import numpy as np
import pytest

from relay_passes.planner.contention import contention_us
from relay_passes.planner.problem import Choice, Cut, Op, Problem, Waiting
from relay_passes.planner.timeline import evaluate

_WAIT = dict.fromkeys(itertools.permutations(("cpu", "gpu", "npu"), 2), 0.0)


def _problem(*ops):
    """`(device -> µs, inputs)` of each operator."""
    made = []
    for number, (us, inputs) in enumerate(ops):
        half = Cut(0, 1, 2) if len(us) == 2 else None
        choice = Choice(us, (None,) * len(inputs), half, "weight" if half else None)
        made.append(Op((choice,), inputs, is_output=number == len(ops) - 1))
    return Problem(tuple(made), Waiting(wait_us=_WAIT))


def _contention(problem, slowdown):
    return contention_us(evaluate(problem, [0] * len(problem.ops)), slowdown)


def test_branches_slow_each_other_where_they_overlap():
    """40 µs on the GPU beside 100 on the NPU: 40 of both."""
    problem = _problem(({"gpu": 40.0}, ()), ({"npu": 100.0}, ()), ({"gpu": 1.0}, (0, 1)))
    assert _contention(problem, [{"gpu": 0.5}, {}, {}]) == pytest.approx(20)
    assert _contention(problem, [{"gpu": 0.5}, {"npu": 0.25}, {}]) == pytest.approx(20)
    assert _contention(problem, [{"gpu": 0.1}, {"npu": 0.25}, {}]) == pytest.approx(10)


def test_who_works_alone_is_not_slowed():
    chain = _problem(({"gpu": 40.0}, ()), ({"npu": 100.0}, (0,)), ({"gpu": 30.0}, (1,)))
    assert _contention(chain, [{"gpu": 0.5}, {"npu": 0.5}, {"gpu": 0.5}]) == 0


def test_parts_of_a_cut_operator_are_priced_for_two():
    cut = _problem(({"gpu": 40.0, "npu": 60.0}, ()))
    assert _contention(cut, [{}]) == 0


@pytest.mark.parametrize("seed", range(10))
def test_never_more_than_if_the_other_one_never_rested(seed):
    rng = np.random.default_rng(seed)
    ops = []
    for number in range(12):
        inputs = (int(rng.integers(number)),) if number and rng.random() < 0.6 else ()
        ops.append(({str(rng.choice(["gpu", "npu"])): float(rng.uniform(1, 50))}, inputs))
    shares = [{next(iter(us)): float(rng.uniform(0, 1))} for us, _ in ops]
    busy = {"gpu": 0.0, "npu": 0.0}
    for (us, _), share in zip(ops, shares, strict=True):
        for device, time in us.items():
            busy[device] += time * share[device]
    assert 0 <= _contention(_problem(*ops), shares) <= max(busy.values()) + 1e-9
