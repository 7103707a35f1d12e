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
