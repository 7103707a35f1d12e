"""Which layer the others follow is settled by the time of the whole."""

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


def test_takes_the_layer_that_is_best_for_all():
    problem = chain(6)
    # Two layers of one operator each: the first on the GPU, the second on the NPU.
    likes = [(0, 0, 0, 0, 0, 1), (0, 1, 0, 1, 0, 1), (1, 1, 1, 1, 1, 1)]
    choices, timeline = repeated(problem, [0, 1], likes)
    assert choices == (1,) * 6
    assert timeline == evaluate(problem, choices)


def test_takes_another_value_than_time():
    choices, _ = repeated(chain(6), [0, 1], [(1,) * 6, (0,) * 6], lambda choices, _: sum(choices))
    assert choices == (0,) * 6


def test_of_equals_the_first():
    choices, _ = repeated(chain(2), [0, 1], [(0, 1), (1, 0)], lambda *_: 0.0)
    assert choices == (0, 1)


def test_is_no_worse_than_a_plan_that_is_known():
    problem = chain(6)
    choices, timeline = repeated(problem, [0, 1], [(0, 1, 0, 1, 0, 1)], others=[[1] * 6])
    assert choices == (1,) * 6
    assert timeline.total_us == 6 * 8.0 + 3.0  # and the CPU waits at the end
