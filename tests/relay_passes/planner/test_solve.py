"""The optimum, against trying everything."""

import dataclasses
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner.random_problems import all_plans, problems, repeating

from relay_passes.planner.frontier import Frontier
from relay_passes.planner.problem import Choice, Cut, Op, Problem, Waiting
from relay_passes.planner.solve import _Search, on_one_device, solve, stretched, total_us
from relay_passes.planner.timeline import evaluate

FREE = Waiting(
    wait_us={(d, e): 0.0 for d in ("cpu", "gpu", "npu") for e in ("cpu", "gpu", "npu") if d != e}
)
DEAR = Waiting(wait_us=dict.fromkeys(FREE.wait_us, 10.0), region_us=5.0)


def _op(*choices, inputs=(), is_output=False):
    return Op(choices, inputs, is_output=is_output)


def _joules(problem, plan):
    return sum(op.choices[number].joules for op, number in zip(problem.ops, plan, strict=True))


@settings(max_examples=120, deadline=None)
@given(problems())
def test_nothing_is_faster(problem):
    totals = all_plans(problem)
    solution = solve(problem)
    assert solution.exact
    assert solution.timeline.total_us == pytest.approx(min(totals.values()), abs=1e-6)
    assert solution.timeline == evaluate(problem, solution.choices)
    assert solution.bound_us == solution.value == solution.timeline.total_us
    assert solve(problem) == solution


@settings(max_examples=200, deadline=None)
@given(problems(), st.data())
def test_the_search_counts_as_the_timeline_does(problem, data):
    numbers = (st.integers(0, len(op.choices) - 1) for op in problem.ops)
    plan = data.draw(st.tuples(*numbers))
    found = total_us(Frontier(problem), plan)
    assert found == pytest.approx(evaluate(problem, plan).total_us, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(repeating(layers=5))
def test_nothing_is_faster_where_layers_repeat(problem):
    totals = all_plans(problem)
    assert solve(problem).timeline.total_us == pytest.approx(min(totals.values()), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(repeating(layers=25))
def test_a_stretch_found_again_is_the_one_searched_again(problem):
    found = solve(problem)
    with mock.patch("relay_passes.planner.solve._NARROW", 0):  # nothing is found again
        searched = solve(problem)
    assert found.exact and searched.exact
    assert found.timeline.total_us == pytest.approx(searched.timeline.total_us, abs=1e-6)
    assert len(found.timeline.waits) == len(searched.timeline.waits)


@settings(max_examples=60, deadline=None)
@given(problems(most_ops=6))
def test_a_narrow_beam_knows_how_far_off_it_may_be(problem):
    totals = all_plans(problem)
    solution = solve(problem, beam=1)
    assert solution.bound_us <= min(totals.values()) + 1e-6
    assert solution.timeline.total_us >= min(totals.values())
    for device in ("gpu", "npu"):
        assert solution.timeline.total_us <= totals[tuple(on_one_device(problem, device))] + 1e-6
    if solution.exact:
        assert solution.timeline.total_us == pytest.approx(min(totals.values()), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(problems(most_ops=5))
def test_least_energy_then_least_time(problem):
    totals = all_plans(problem)
    least = min((round(_joules(problem, plan), 9), total) for plan, total in totals.items())
    solution = solve(problem, objective="energy")
    assert solution.joules == pytest.approx(least[0])
    assert solution.timeline.total_us == pytest.approx(least[1], abs=1e-6)
    assert solution.timeline == evaluate(problem, solution.choices)
    assert solution.joules == solution.value == solution.bound
    assert solution.joules == pytest.approx(_joules(problem, solution.choices))


@settings(max_examples=60, deadline=None)
@given(problems(most_ops=5))
def test_least_product_of_energy_and_time(problem):
    totals = all_plans(problem)
    least = min(total * _joules(problem, plan) for plan, total in totals.items())
    solution = solve(problem, objective="edp")
    assert solution.exact
    assert solution.value == pytest.approx(least, abs=1e-5)
    assert solution.bound_us <= min(totals.values()) + 1e-6  # of time alone


def test_a_given_plan_is_a_candidate():
    gpu, npu = Choice({"gpu": 3.0}, ()), Choice({"npu": 2.0}, ())
    ops = tuple(_op(gpu, npu) for _ in range(12))
    rather = [0, 1] * 6
    solution = solve(Problem(ops, FREE), beam=1, others=[rather])
    assert solution.timeline.total_us <= evaluate(Problem(ops, FREE), rather).total_us


def test_a_given_plan_is_a_candidate_for_energy_where_it_takes_the_least():
    gpu, npu = Choice({"gpu": 3.0}, (), joules=1.0), Choice({"npu": 2.0}, (), joules=1.0)
    dear = Choice({"gpu": 0.1}, (), joules=2.0)
    problem = Problem(tuple(_op(dear, gpu, npu) for _ in range(12)), FREE)
    rather = [1, 2] * 6
    solution = solve(problem, beam=1, objective="energy", others=[rather, [0] * 12])
    assert solution.joules == 12.0
    assert solution.timeline.total_us <= evaluate(problem, rather).total_us == 18.0


def test_two_devices_share_what_is_independent():
    ops = tuple(_op(Choice({"gpu": 4.0}, ()), Choice({"npu": 4.0}, ())) for _ in range(4))
    assert solve(Problem(ops, FREE)).timeline.total_us == 8.0


@pytest.mark.parametrize("order", [1, -1])
def test_of_equals_the_one_without_split_or_wait(order):
    cut = Cut(0, 1, 2)
    whole, split = Choice({"gpu": 4.0}, ()), Choice({"gpu": 4.0, "npu": 4.0}, (), cut)
    reader = _op(Choice({"gpu": 1.0}, (None,)), inputs=(0,), is_output=True)
    choices = (whole, split)[::order]
    solution = solve(Problem((_op(*choices), reader), FREE))
    assert choices[solution.choices[0]] is whole


def test_a_region_that_is_broken_off_is_written_out():
    """The NPU alone writes a byte out and reads it again; cut, it reads a quarter of it."""
    cut = Cut(0, 1, 4)
    first = Op((Choice({"npu": 0.0}, ()),), nbytes=100)
    split = Choice({"gpu": 0.0, "npu": 10.0}, (cut,), cut)
    second = Op((Choice({"npu": 10.0}, (None,)), split), (0,), is_output=True, breaks=True)
    problem = Problem((first, second), dataclasses.replace(FREE, border_us_per_byte=0.1))
    assert [evaluate(problem, plan).total_us for plan in ((0, 0), (0, 1))] == [30.0, 22.5]
    assert solve(problem, beam=1).choices == (0, 1)


def test_a_small_share_of_the_gpu_moves_work_to_the_npu():
    problem = Problem((_op(Choice({"gpu": 4.0}, ()), Choice({"npu": 5.0}, ())),), FREE)
    assert solve(problem).choices == (0,)
    assert solve(problem, gpu_share=0.5).choices == (1,)
    assert stretched(problem, 0.5).ops[0].choices[0].us == {"gpu": 8.0}


def test_a_shared_gpu_takes_as_much_longer_for_each_part_of_its_work():
    early = Choice({"gpu": 4.0}, (), early=Cut(0, 1, 2), late_us=1.0, alone_us=0.5)
    (slow,) = stretched(Problem((Op((early,)),), FREE), 0.25).ops[0].choices
    assert (slow.us["gpu"], slow.late_us, slow.alone_us) == (16.0, 4.0, 2.0)


def test_what_cannot_be_answered():
    problem = Problem((_op(Choice({"gpu": 4.0}, ())),), FREE)
    with pytest.raises(ValueError, match="none is known for operator 0, choice 0"):
        solve(problem, objective="energy")
    with pytest.raises(ValueError, match="gpu_share is 0"):
        solve(problem, gpu_share=0)
    with pytest.raises(ValueError, match="unknown objective 'power'"):
        solve(problem, objective="power")
    with pytest.raises(ValueError, match="beam is 0"):
        solve(problem, beam=0)


def test_no_operators():
    solution = solve(Problem((), FREE))
    assert solution.choices == () and solution.timeline.total_us == 0


def _layers(count):
    """A model that repeats: norm, product, product read as it is cut, sum with what came in."""
    cuts = [Cut(1, at, 128) for at in range(32, 128, 32)]

    def split(gpu, npu, reads):
        return [
            Choice(
                {"gpu": gpu * (1 - c.at / 128), "npu": npu * c.at / 128},
                (r or c,) if reads else (None,),
                c,
            )
            for c in cuts
            for r in (None,)
        ]

    ops = [_op(Choice({"gpu": 5.0}, ()), Choice({"npu": 9.0}, ()))]
    for _ in range(count):
        last = len(ops) - 1
        one = (Choice({"gpu": 40.0}, (None,)), Choice({"npu": 30.0}, (None,)))
        ops.append(_op(*one, *split(40.0, 30.0, False), inputs=(last,)))
        ops.append(_op(*one, *split(40.0, 30.0, True), inputs=(last + 1,)))
        both = (None, None)
        ops.append(
            _op(Choice({"gpu": 2.0}, both), Choice({"npu": 6.0}, both), inputs=(last, last + 2))
        )
    ops[-1] = dataclasses.replace(ops[-1], is_output=True)
    return Problem(tuple(ops), DEAR)


def test_a_model_of_many_layers_is_solved_exactly():
    with mock.patch.object(_Search, "_step", autospec=True, side_effect=_Search._step) as step:
        solution = solve(_layers(40))
    assert step.call_count < 20  # of 121 operators: the others are as those before them
    assert solution.exact
    singles = [
        evaluate(_layers(40), on_one_device(_layers(40), d)).total_us for d in ("gpu", "npu")
    ]
    assert solution.timeline.total_us < min(singles)
