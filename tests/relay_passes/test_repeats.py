"""Layers are found by structure alone, and a program without most of them has the same ends."""

import pytest
from attended_programs import attended
from layered_programs import layered

from relay_passes.op_work import op_name, static_shape
from relay_passes.program import read_program
from relay_passes.repeats import KEPT, Repeat, find_repeats, shortened

PERIOD = 7  # operators of a layer


def found(mod, more=lambda number: None):
    nodes = read_program(mod)
    return nodes, find_repeats(nodes, more)


def test_finds_the_layers():
    """The first layer differs by the row that it makes for all."""
    nodes, (repeat,) = found(layered(10))
    assert repeat == Repeat(first=9, period=PERIOD, count=9)
    assert (nodes[repeat.first].name, nodes[repeat.end].name) == ("norm1", "logits")


@pytest.mark.parametrize(
    ("layers", "odd", "counts"),
    [
        pytest.param(20, 10, [9, 9], id="an_odd_one_parts_two_stretches"),
        pytest.param(7, 3, [], id="too_few_on_either_side"),
        pytest.param(4, None, [], id="too_few"),
    ],
)
def test_only_what_is_alike_is_one_repetition(layers, odd, counts):
    _, repeats = found(layered(layers, odd=odd))
    assert [repeat.count for repeat in repeats] == counts
    assert all(repeat.period == PERIOD for repeat in repeats)


def test_more_can_tell_operators_apart():
    nodes = read_program(layered(12))
    kept_off = [number for number, node in enumerate(nodes) if node.name == "curve1"]
    repeats = find_repeats(nodes, lambda number: number in kept_off)
    assert all(repeat.first > kept_off[0] for repeat in repeats)


def test_an_alternation_is_one_layer_of_both_kinds():
    nodes = read_program(layered(20))
    layer_of = {node.name: int("".join(filter(str.isdigit, node.name)) or 0) for node in nodes}
    (repeat,) = find_repeats(nodes, lambda number: layer_of[nodes[number].name] % 2)
    assert repeat.period == 2 * PERIOD


@pytest.mark.parametrize("tap", [None, 0, 4, 9])
def test_the_short_program_is_a_program(tap):
    """Operators come after those they read, at the types that they had."""
    nodes, repeats = found(layered(10, tap=tap))
    short = shortened(nodes, repeats)
    (repeat,) = repeats
    assert len(nodes) - len(short.nodes) == (repeat.count - 2 * KEPT) * PERIOD
    made = set()
    types = {node.var: static_shape(node.call.ty) for node in short.nodes}
    for node, number in zip(short.nodes, short.kept, strict=True):
        whole = nodes[number]
        assert (node.name, op_name(node.call)) == (whole.name, op_name(whole.call))
        assert static_shape(node.call.ty) == static_shape(whole.call.ty)
        assert set(node.inputs) <= made
        read = [arg for arg in node.call.args if arg in types]
        assert {arg.name for arg in read} == set(node.inputs)
        made.add(node.name)


def test_every_operator_is_like_one_of_its_kind():
    nodes, repeats = found(layered(10))
    short = shortened(nodes, repeats)
    place = {node.name: i for i, node in enumerate(short.nodes)}
    for way in short.likes:
        for node, like in zip(nodes, way, strict=True):
            other = short.nodes[like]
            assert op_name(node.call) == op_name(other.call)
            assert node.name.rstrip("0123456789") == other.name.rstrip("0123456789")
    nearest = short.likes[0]
    assert all(nearest[i] == place[node.name] for i, node in enumerate(nodes) if node.name in place)
    assert len(set(short.likes)) == 4 * KEPT


@pytest.mark.parametrize("tap", [None, 0, 4, 7])
def test_one_feeds_the_next_alone_where_all_do_that_it_stands_for(tap):
    nodes = read_program(attended(8, tap=tap))
    short = shortened(nodes, find_repeats(nodes, lambda number: None))
    feeding = {node.name: node.feeds_next for node in nodes}
    for way in short.likes:
        for node, like in zip(nodes, way, strict=True):
            assert feeding[node.name] or not short.nodes[like].feeds_next
    found = [node.feeds_next for node in short.nodes if node.name.startswith("mixed")]
    assert all(found) == (tap is None)
