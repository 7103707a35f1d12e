"""Plans with one boundary: complete, without another cut, and among the good ones."""

import dataclasses
from fractions import Fraction

import pytest
from hypothesis import given, settings
from planner.random_problems import problems

from relay_passes.planner.one_boundary import one_boundary_plans
from relay_passes.planner.problem import Choice, Cut, Op, Problem, Waiting
from relay_passes.planner.timeline import evaluate

PAIRS = [(a, b) for a in ("cpu", "gpu", "npu") for b in ("cpu", "gpu", "npu") if a != b]


def at(share, gpu, npu, inputs=()):
    cut = Cut(0, share.numerator, share.denominator)
    return Choice({"gpu": gpu, "npu": npu}, (cut,) * len(inputs), cut, "activation")


@settings(max_examples=100, deadline=None)
@given(problems())
def test_each_plan_has_cuts_at_one_share(problem):
    whole = Choice({"gpu": 50.0}, ())
    ops = tuple(
        dataclasses.replace(
            op, choices=(*op.choices, dataclasses.replace(whole, reads=(None,) * len(op.inputs)))
        )
        for op in problem.ops
    )
    problem = dataclasses.replace(problem, ops=ops)
    for plan in one_boundary_plans(problem):
        chosen = [op.choices[number] for op, number in zip(problem.ops, plan, strict=True)]
        assert len({choice.cut.share for choice in chosen if choice.cut}) <= 1
        assert evaluate(problem, plan).total_us >= 0


@settings(max_examples=50, deadline=None)
@given(problems())
def test_a_plan_is_complete_where_there_is_no_choice(problem):
    for plan in one_boundary_plans(problem):
        assert evaluate(problem, plan).total_us >= 0


def test_one_for_each_share_the_best_among_them():
    """A chain that balances at a half; whole operators are there too."""
    half, third = Fraction(1, 2), Fraction(1, 3)
    ops = []
    for index in range(6):
        inputs = (index - 1,) if index else ()
        whole = Choice({"gpu": 20.0}, (None,) * len(inputs))
        choices = (whole, at(half, 10.0, 10.0, inputs), at(third, 15.0, 6.0, inputs))
        ops.append(Op(choices, inputs, is_output=index == 5))
    problem = Problem(tuple(ops), Waiting(wait_us=dict.fromkeys(PAIRS, 1.0)))
    assert set(one_boundary_plans(problem)) == {(1,) * 6, (2,) * 6}


def test_what_is_whole_is_not_the_npus_where_it_can_be_elsewhere():
    """Though it would be faster there."""
    half = at(Fraction(1, 2), 10.0, 10.0)
    lone = Op((Choice({"npu": 1.0}, ()),))
    free = Op((Choice({"gpu": 4.0}, ()), Choice({"npu": 1.0}, ()), half))
    problem = Problem((free, lone, free), Waiting(wait_us=dict.fromkeys(PAIRS, 1.0)))
    assert one_boundary_plans(problem) == [(0, 0, 0)]


def test_nothing_to_cut():
    problem = Problem(
        (Op((Choice({"gpu": 1.0}, ()),)),), Waiting(wait_us=dict.fromkeys(PAIRS, 1.0))
    )
    assert one_boundary_plans(problem) == []


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_three_at_which_most_can_be_cut(count):
    shares = [Fraction(1, n + 2) for n in range(count)]
    ops = tuple(
        Op(tuple(at(share, 1.0, 1.0) for share in shares[: index + 1])) for index in range(count)
    )
    problem = Problem(ops, Waiting(wait_us=dict.fromkeys(PAIRS, 1.0)))
    assert len(one_boundary_plans(problem)) == min(count, 3)


def test_an_operator_has_one_vote_and_columns_none():
    """The first could have a third in three ways, but two can have a half; columns do not count."""
    half, third, quarter = Fraction(1, 2), Fraction(1, 3), Fraction(1, 4)
    other = dataclasses.replace(at(third, 1.0, 1.0), gather_us=1.0)
    early = Choice({"gpu": 1.0}, (), early=Cut(0, 1, 3))
    columns = dataclasses.replace(at(quarter, 1.0, 1.0), kind="weight")
    ops = (
        Op((at(third, 1.0, 1.0), other, early, at(half, 1.0, 1.0), columns)),
        Op((at(half, 1.0, 1.0), columns)),
        Op((Choice({"gpu": 9.0}, ()), columns)),
    )
    problem = Problem(ops, Waiting(wait_us=dict.fromkeys(PAIRS, 1.0)))
    plans = one_boundary_plans(problem)
    assert len(plans) == 2
    assert plans[0] == (3, 0, 0)
