"""One change at a time: never worse, and out of a dead end where one change is enough."""

import dataclasses
import itertools

import numpy as np
import pytest

from relay_passes.planner.improve import improved
from relay_passes.planner.problem import Choice, Cut, Op, Problem, Waiting
from relay_passes.planner.timeline import evaluate


def waiting(us):
    return Waiting(wait_us=dict.fromkeys(itertools.permutations(("cpu", "gpu", "npu"), 2), us))


def chain(times, us=1.0):
    """Each operator reads the one before it; `times`: (gpu, npu) of each."""
    ops = []
    for index, (gpu, npu) in enumerate(times):
        inputs = (index - 1,) if index else ()
        reads = (None,) * len(inputs)
        half = Cut(0, 1, 2)
        split = Choice({"gpu": gpu / 2, "npu": npu / 2}, (half,) * len(inputs), half, "activation")
        choices = (Choice({"gpu": gpu}, reads), Choice({"npu": npu}, reads), split)
        ops.append(Op(choices, inputs, is_output=index == len(times) - 1))
    return Problem(tuple(ops), waiting(us))


def test_a_lone_detour_is_taken_back():
    """Cut all along but for one operator, whose result both parts wait for."""
    problem = chain([(10.0, 10.0)] * 5)
    assert improved(problem, [2, 2, 0, 2, 2], most_steps=1000) == (2, 2, 2, 2, 2)


def test_a_limit_ends_it_early():
    problem = chain([(10.0, 10.0)] * 5)
    assert improved(problem, [2, 2, 0, 2, 2], most_steps=0) == (2, 2, 0, 2, 2)


@pytest.mark.parametrize(("trials", "found"), [(5, (2, 2, 0, 2, 2)), (6, (2, 2, 2, 2, 2))])
def test_a_limit_counts_all_trials(trials, found):
    """Two trials for each operator: the third's second one is the first that helps."""
    problem = chain([(10.0 + index, 10.0 + index) for index in range(5)])  # none are alike
    assert improved(problem, [2, 2, 0, 2, 2], most_steps=trials * 5) == found


@pytest.mark.parametrize("seed", range(20))
def test_never_worse_and_no_single_change_of_the_last_operator_left(seed):
    rng = np.random.default_rng(seed)
    problem = chain([tuple(rng.uniform(1, 20, 2)) for _ in range(7)], us=rng.uniform(0, 8))
    choices = rng.integers(0, 3, 7).tolist()
    found = improved(problem, choices, most_steps=10_000)
    timeline = evaluate(problem, found)
    assert timeline.total_us <= evaluate(problem, choices).total_us
    for number in range(3):  # the last one tried
        other = evaluate(problem, [*found[:-1], number])
        assert other.total_us >= timeline.total_us - 1e-5


def test_a_boundary_moves_for_the_whole_chain():
    """Each operator alone would have to gather what the others cut elsewhere."""
    ops = []
    for index in range(4):
        inputs = (index - 1,) if index else ()
        choices = [Choice({"gpu": 16.0}, (None,) * len(inputs))]
        for at in (2, 4, 6):
            cut = Cut(0, at, 8)
            us = {"gpu": 16.0 * (8 - at) / 8, "npu": 16.0 * at / 8}
            choices.append(Choice(us, (cut,) * len(inputs), cut, "activation", gather_us=9.0))
        ops.append(Op(tuple(choices), inputs, is_output=index == 3))
    problem = Problem(tuple(ops), waiting(5.0))
    lone = evaluate(problem, [1, 2, 1, 1])
    assert lone.total_us > evaluate(problem, [1, 1, 1, 1]).total_us
    assert improved(problem, [1, 1, 1, 1], most_steps=10_000) == (2, 2, 2, 2)
    assert improved(problem, [1, 1, 1, 1], most_steps=3) == (1, 1, 1, 1)


def test_operators_that_are_alike_change_together():
    """One alone on the other device would be waited for, before it and behind it."""
    problem = chain([(10.0, 1.0)] * 6, us=30.0)
    ops = tuple(dataclasses.replace(op, choices=op.choices[:2]) for op in problem.ops)
    problem = dataclasses.replace(problem, ops=ops)
    for index in range(6):
        alone = [int(number == index) for number in range(6)]
        assert evaluate(problem, alone).total_us > evaluate(problem, [0] * 6).total_us
    assert improved(problem, [0] * 6, most_steps=1000) == (1, 1, 1, 1, 1, 1)


def test_no_boundary_comes_in_that_the_plan_did_not_have():
    """The second operator would gain from another boundary than that of the first."""

    def cut(at, gpu, npu, inputs=()):
        rows = Cut(0, at, 4)
        return Choice({"gpu": gpu, "npu": npu}, (rows,) * len(inputs), rows, "activation")

    first = Op((cut(1, 5.0, 10.0), cut(2, 5.0, 5.0)))
    second = Op((cut(1, 5.0, 5.0, (0,)), cut(2, 9.0, 9.0, (0,))), (0,), is_output=True)
    problem = Problem((first, second), waiting(1.0))
    assert evaluate(problem, [1, 0]).total_us < evaluate(problem, [1, 1]).total_us
    assert improved(problem, [1, 1], most_steps=1000) == (1, 1)


def way(axis, at, kind, us, inputs=0):
    cut = Cut(axis, at, 4)
    return Choice({"gpu": us, "npu": us}, (cut,) * inputs, cut, kind)


def test_columns_at_a_share_let_no_rows_in_at_it():
    first = Op((way(1, 1, "weight", 5.0),))
    second = Op((way(0, 1, "activation", 4.0), Choice({"gpu": 9.0}, ())), is_output=True)
    problem = Problem((first, second), waiting(1.0))
    assert evaluate(problem, [0, 0]).total_us < evaluate(problem, [0, 1]).total_us
    assert improved(problem, [0, 1], most_steps=1000) == (0, 1)


def test_who_reads_columns_may_go_along():
    """It is cut as its operand is, so nobody meets there."""
    first = Op((way(1, 1, "weight", 5.0),))
    second = Op(
        (
            Choice({"gpu": 9.0}, (None,)),
            way(1, 1, "activation", 4.0, 1),
            way(1, 2, "activation", 1.0, 1),
        ),
        (0,),
        is_output=True,
    )
    problem = Problem((first, second), waiting(20.0))
    assert improved(problem, [0, 0], most_steps=1000) == (0, 1)


def test_operators_that_are_alike_leave_steps_for_each_alone():
    """Trying the six at once twice, the second time in vain, would use all of them up."""
    six = Op(tuple(Choice({"gpu": us}, ()) for us in (9.0, 8.0, 7.0)), is_output=True)
    alone = Op(tuple(Choice({"gpu": us}, ()) for us in (50.0, 1.0, 40.0, 45.0)), is_output=True)
    problem = Problem((six,) * 6 + (alone,), waiting(0.0))
    assert improved(problem, [0] * 7, most_steps=2 * 2 * 7) == (2,) * 6 + (1,)
