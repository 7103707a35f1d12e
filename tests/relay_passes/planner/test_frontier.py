"""States between operators: what they share, and what they leave out."""

import itertools

import pytest

from relay_passes.planner.frontier import Frontier, grid
from relay_passes.planner.problem import DEVICES, Choice, Cut, Op, Problem, Waiting

HALF, THIRD = Cut(0, 6, 12), Cut(0, 4, 12)


def _frontier(*ops, border=0.0):
    price = dict.fromkeys(itertools.permutations(DEVICES, 2), 10.0)
    return Frontier(Problem(ops, Waiting(wait_us=price, border_us_per_byte=border)))


def _split(cut, *reads):
    return Choice({"gpu": 1.0, "npu": 1.0}, reads, cut)


WHOLE = Op((Choice({"gpu": 1.0}, (None,)), Choice({"npu": 1.0}, (None,))), (0,))


def _after(frontier, *choices):
    number = frontier.start
    for index, choice in enumerate(choices):
        number = frontier.effects(number, index)[choice].after
    return number


def test_sums_on_the_grid_are_exact():
    times = [grid(us) for us in (0.1, 0.2, 0.3)]
    assert times[0] + times[1] + times[2] == times[2] + times[1] + times[0]
    assert times[0] == pytest.approx(0.1, abs=1e-9)


def test_layers_that_repeat_share_states():
    first = Op((Choice({"gpu": 1.0}, ()), Choice({"npu": 1.0}, ())), nbytes=4)
    layers = [Op(WHOLE.choices, (index,), 4) for index in range(6)]
    frontier = _frontier(first, *layers, border=1.0)
    assert len(set(frontier.context[1:-1])) == 1
    assert _after(frontier, 0, 0) == _after(frontier, 0, 0, 0, 0)
    assert _after(frontier, 0, 0) != _after(frontier, 0, 1)


@pytest.mark.parametrize("border", [0.0, 1.0])
def test_where_a_cut_lies_is_forgotten_when_nobody_reads_it_so(border):
    first = Op((_split(HALF), _split(THIRD)), nbytes=12)
    frontier = _frontier(first, WHOLE, border=border)
    assert _after(frontier, 0) == _after(frontier, 1)
    # What the NPU will write out is paid at once instead.
    paid = [effect.push[1] for effect in frontier.effects(frontier.start, 0)]
    assert paid == [1 + 6 * border, 1 + 4 * border]
    reader = Op((_split(HALF, HALF), *WHOLE.choices), (0,))
    frontier = _frontier(first, reader, border=border)
    assert _after(frontier, 0) != _after(frontier, 1)


def test_a_device_that_can_only_wait_is_idle():
    first = Op((Choice({"gpu": 1.0}, ()),))
    other = Op((Choice({"npu": 1.0}, ()),))
    frontier = _frontier(first, WHOLE)
    (effect,) = frontier.effects(frontier.start, 0)
    assert effect.idle == ((1, (0,)),)  # the NPU, behind the GPU
    frontier = _frontier(first, Op(WHOLE.choices, (0,)), other)
    (effect,) = frontier.effects(frontier.start, 0)
    assert effect.idle == ()  # there is work that it can do at once


def test_a_state_is_found_again_by_its_number():
    frontier = _frontier(Op((_split(HALF),)), Op((_split(HALF, HALF), *WHOLE.choices), (0,)))
    state = frontier.state(_after(frontier, 0), 1)
    assert state.lies[0].makes == HALF and set(state.lies[0].us) == {"gpu", "npu"}
    assert state.open is False  # starting a region costs nothing here
