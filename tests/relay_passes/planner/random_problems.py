"""Small random problems, and all their plans."""

import dataclasses
import itertools

from hypothesis import strategies as st

from relay_passes.planner.problem import DEVICES, Choice, Cut, Op, Problem, Waiting
from relay_passes.planner.timeline import evaluate

_CUTS = [Cut(0, 1, 4), Cut(0, 2, 4), Cut(0, 3, 4), Cut(1, 1, 2)]
_ALONE_US = st.sampled_from([0.0, 0.0, 2.5])
_US = st.one_of(st.sampled_from([0.0, 1.0, 2.0, 5.0, 8.0]), st.floats(0, 20))


@st.composite
def _choices(draw, inputs, devices):
    joules = draw(st.sampled_from([0.5, 1.0, 2.0]))
    if draw(st.booleans()):
        device = draw(st.sampled_from(devices))
        alone_us = draw(_ALONE_US)
        return Choice({device: draw(_US)}, (None,) * inputs, joules=joules, alone_us=alone_us)
    makes = draw(st.sampled_from(_CUTS))
    reads = draw(st.tuples(*[st.sampled_from([None, makes, *_CUTS]) for _ in range(inputs)]))
    gather_us = draw(st.sampled_from([0.0, 0.0, 1.5, 4.0]))
    us = {"gpu": draw(_US), "npu": draw(_US)}
    return Choice(us, reads, makes, "weight", gather_us, joules, draw(_ALONE_US))


@st.composite
def _early(draw, choice):
    """`choice`, or with one part made before the other."""
    if set(choice.us) != {"gpu"} or draw(st.booleans()):
        return choice
    late_us = draw(st.sampled_from([0.0, 0.5, 1.0])) * choice.us["gpu"]
    return dataclasses.replace(choice, early=draw(st.sampled_from(_CUTS)), late_us=late_us)


@st.composite
def problems(draw, most_ops=7):
    """Up to `most_ops` operators with up to 4 choices, few enough plans to try them all."""
    count = draw(st.integers(1, most_ops))
    devices = draw(st.sampled_from([["gpu", "npu"], list(DEVICES)]))
    ops = []
    for index in range(count):
        near = range(max(0, index - 4), index)
        inputs = draw(st.sets(st.sampled_from(near), max_size=3)) if near else set()
        most_choices = 4 if count < 6 else 3
        choices = draw(st.lists(_choices(len(inputs), devices), min_size=1, max_size=most_choices))
        is_output = index == count - 1 or draw(st.sampled_from([False, False, False, True]))
        nbytes = draw(st.sampled_from([0, 1, 10]))
        op = Op(tuple(choices), tuple(sorted(inputs)), nbytes, is_output=is_output)
        mates = tuple(i for i in op.inputs if draw(st.booleans()))
        breaks = draw(st.sampled_from([False, False, False, True]))
        ops.append(dataclasses.replace(op, mates=mates, breaks=breaks))
    for index in range(count):
        readers = {reader for reader in range(count) if index in ops[reader].inputs}
        if readers <= {index + 1} and not ops[index].is_output:
            choices = tuple(draw(_early(choice)) for choice in ops[index].choices)
            ops[index] = dataclasses.replace(ops[index], choices=choices)
    price = {pair: draw(_US) for pair in itertools.permutations(DEVICES, 2)}
    region_us, border = draw(st.sampled_from([0.0, 6.0])), draw(st.sampled_from([0.0, 0.3]))
    waiting = Waiting(wait_us=price, region_us=region_us, border_us_per_byte=border)
    return Problem(tuple(ops), waiting)


def all_plans(problem):
    """Every plan with its total time."""
    numbers = (range(len(op.choices)) for op in problem.ops)
    return {plan: evaluate(problem, plan).total_us for plan in itertools.product(*numbers)}


@st.composite
def repeating(draw, layers):
    """One operator with two choices, `layers` times, each reading the one or two before it."""
    devices = draw(st.sampled_from([["gpu", "npu"], list(DEVICES)]))
    reads = draw(st.sampled_from([(1,), (2, 1), (3, 1)]))
    nbytes, outputs = draw(st.sampled_from([0, 10])), draw(st.booleans())
    choices = [draw(_choices(len(reads), devices)) for _ in range(2)]
    first = [Op((Choice({"gpu": 1.0}, ()), Choice({"npu": 2.0}, ())))] * max(reads)
    fusing = draw(st.booleans())
    ops = []
    for index in range(len(first), len(first) + layers):
        inputs = tuple(index - back for back in reads)
        mates = inputs[-1:] if fusing else ()
        ops.append(Op(tuple(choices), inputs, nbytes, is_output=outputs, mates=mates))
    price = {pair: draw(_US) for pair in itertools.permutations(DEVICES, 2)}
    region_us, border = draw(st.sampled_from([0.0, 6.0])), draw(st.sampled_from([0.0, 0.3]))
    waiting = Waiting(wait_us=price, region_us=region_us, border_us_per_byte=border)
    return Problem((*first, *ops), waiting)
