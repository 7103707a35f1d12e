"""No plan ends before the bound; where the bound can be exact it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from planner.random_problems import all_plans, problems

from relay_passes.planner.lower_bound import LowerBound
from relay_passes.planner.problem import Choice, Cut, Op, Problem, Waiting

FREE = Waiting(
    wait_us={(d, e): 0.0 for d in ("cpu", "gpu", "npu") for e in ("cpu", "gpu", "npu") if d != e}
)


@settings(max_examples=150, deadline=None)
@given(problems())
def test_no_plan_ends_before_it(problem):
    assert LowerBound(problem).of_all() <= min(all_plans(problem).values()) + 1e-9


def test_a_chain_of_wholes_takes_the_sum():
    choices = (Choice({"gpu": 4.0}, (None,)), Choice({"npu": 3.0}, (None,)))
    first = Op((Choice({"gpu": 4.0}, ()),))
    ops = (first, *(Op(choices, (index,)) for index in range(3)))
    bound = LowerBound(Problem(ops, FREE))
    assert bound.of_all() == 4 + 3 * 3
    clock = np.array([10.0])
    assert bound.of_points(2, np.zeros(1), clock, clock)[0] == 10 + 2 * 3


def test_splits_are_shared_between_the_devices():
    cut = Cut(0, 1, 2)
    choices = (Choice({"gpu": 4.0}, ()), Choice({"gpu": 2.0, "npu": 2.0}, (), cut))
    assert LowerBound(Problem((Op(choices),), FREE)).of_all() == pytest.approx(2.0)


def test_work_beside_one_another_is_shared():
    ops = tuple(Op((Choice({"gpu": 4.0}, ()), Choice({"npu": 4.0}, ()))) for _ in range(4))
    assert LowerBound(Problem(ops, FREE)).of_all() == pytest.approx(8.0)


def _between(*more):
    """One operator, three beside one another that read it, one that reads these; each 4 µs."""
    choices = [
        (Choice({"gpu": 4.0}, (None,) * count), Choice({"npu": 4.0}, (None,) * count))
        for count in range(4)
    ]
    ops = (Op(choices[0]), *(Op(choices[1], (0,)) for _ in range(3)), Op(choices[3], (1, 2, 3)))
    return LowerBound(Problem((*ops, *more), FREE))


def test_what_lies_between_two_that_everything_passes_is_shared():
    assert _between().of_all() == 4 + 3 * 4 / 2 + 4
    lone = Op((Choice({"gpu": 4.0}, ()), Choice({"npu": 4.0}, ())))
    assert _between(lone).of_all() == 4 + 3 * 4 / 2 + 4  # by the longest way
    clock = np.array([10.0])
    assert _between().of_points(1, np.zeros(1), clock, clock)[0] == 10 + 3 * 4 / 2 + 4


def test_a_chain_beside_other_work_starts_with_the_earlier_clock():
    first = Op((Choice({"gpu": 10.0}, ()),))
    choices = (Choice({"gpu": 4.0}, (None,)), Choice({"npu": 4.0}, (None,)))
    start = Op((Choice({"gpu": 4.0}, ()), Choice({"npu": 4.0}, ())))
    bound = LowerBound(Problem((first, start, Op(choices, (1,)), Op(choices, (2,))), FREE))
    assert bound.of_points(1, np.zeros(1), np.array([10.0]), np.zeros(1))[0] == 3 * 4
