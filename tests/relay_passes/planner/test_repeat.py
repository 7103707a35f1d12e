"""Which layer the others follow is settled by the time of the whole."""

import dataclasses
import itertools

from relay_passes.planner.problem import Choice, Op, Problem, Waiting
from relay_passes.planner.repeat import repeated
from relay_passes.planner.timeline import evaluate

PAIRS = itertools.permutations(("cpu", "gpu", "npu"), 2)
WAITING = Waiting(wait_us=dict.fromkeys(PAIRS, 3.0))


def chain(count):
    ops = []
    for index in range(count):
        inputs = (index - 1,) if index else ()
        reads = (None,) * len(inputs)
        choices = (
            Choice({"gpu": 10.0}, reads, joules=1.0),
            Choice({"npu": 8.0}, reads, joules=4.0),
        )
        ops.append(Op(choices, inputs, is_output=index == count - 1))
    return Problem(tuple(ops), WAITING)


TURNED = chain(2).ops[1].choices[::-1]
TWO = chain(1).ops[0].choices  # that two layers of one operator each take


def test_takes_the_layer_that_is_best_for_all():
    problem = chain(6)
    # Two layers of one operator each: the first on the GPU, the second on the NPU.
    likes = [(0, 0, 0, 0, 0, 1), (0, 1, 0, 1, 0, 1), (1, 1, 1, 1, 1, 1)]
    choices, timeline = repeated(problem, TWO, likes)
    assert choices == (1,) * 6
    assert timeline == evaluate(problem, choices)


def test_takes_another_value_than_time():
    choices, _ = repeated(chain(6), TWO, [(1,) * 6, (0,) * 6], lambda choices, _: sum(choices))
    assert choices == (0,) * 6


def test_of_equals_the_first():
    choices, _ = repeated(chain(2), TWO, [(0, 1), (1, 0)], lambda *_: 0.0)
    assert choices == (0, 1)


def test_is_no_worse_than_a_plan_that_is_known():
    problem = chain(6)
    choices, timeline = repeated(problem, TWO, [(0, 1, 0, 1, 0, 1)], others=[[1] * 6])
    assert choices == (1,) * 6
    assert timeline.total_us == 6 * 8.0 + 3.0  # and the CPU waits at the end


def test_choices_are_told_by_what_they_do_and_not_by_their_numbers():
    """An operator's may be others than those of the one that it is like."""
    problem = chain(3)
    ops = (problem.ops[0], dataclasses.replace(problem.ops[1], choices=TURNED), problem.ops[2])
    choices, _ = repeated(dataclasses.replace(problem, ops=ops), TWO, [(1, 1, 1)])
    assert choices == (1, 0, 1)


def test_a_way_that_somebody_has_not_is_left_out():
    problem = chain(3)
    ops = (*problem.ops[:2], dataclasses.replace(problem.ops[2], choices=TURNED[1:]))
    choices, _ = repeated(dataclasses.replace(problem, ops=ops), TWO, [(0, 0, 0), (1, 1, 1)])
    assert choices == (0, 0, 0)
