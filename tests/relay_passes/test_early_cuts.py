"""Where the GPU may compute in two parts: attention that the next operator alone reads."""

import dataclasses

import pytest
from attended_programs import attended
from split_programs import plan_of

from relay_passes.early_cuts import early_cuts
from relay_passes.planner.problem import Choice, Cut
from relay_passes.program import read_program

ROWS = [Cut(1, at, 64) for at in (16, 40)]


def offered(nodes):
    """Every product is on offer with its rows cut at either."""
    ways = [Choice({"gpu": 1.0, "npu": 1.0}, (cut,), cut, "activation") for cut in ROWS]
    whole = Choice({"gpu": 1.0, "npu": 1.0}, (None,), Cut(2, 8, 16), "weight")
    return [[*ways, whole] if node.name.startswith("stream") else [] for node in nodes]


def cuts_of(nodes, also=()):
    found = early_cuts(nodes, offered(nodes), also)
    return {
        node.name: [cut for cut, _ in ways] for node, ways in zip(nodes, found, strict=True) if ways
    }


def test_as_the_one_that_reads_it_can_be_cut():
    nodes = read_program(attended(2))
    assert cuts_of(nodes) == {"mixed0": ROWS, "mixed1": ROWS}
    for ways in early_cuts(nodes, offered(nodes), ()):
        assert all(sharding.axis == cut.axis for cut, sharding in ways)


@pytest.mark.parametrize("tap", [0, 1])
def test_not_where_somebody_else_reads_it(tap):
    assert cuts_of(read_program(attended(2, tap=tap))) == {f"mixed{1 - tap}": ROWS}


@pytest.mark.parametrize(("cut", "known"), [(Cut(1, 3, 64), True), (Cut(2, 3, 16), False)])
def test_what_another_plan_has_is_on_offer_where_it_can_be(cut, known):
    """Rows of 16: a part of each is not in one place."""
    nodes = read_program(attended())
    plan = plan_of(nodes, [("gpu", None) for _ in nodes])
    ops = [dataclasses.replace(op, early=cut if op.name == "mixed0" else None) for op in plan.ops]
    also = [dataclasses.replace(plan, ops=tuple(ops))]
    assert cuts_of(nodes, also)["mixed0"] == sorted([*ROWS, *([cut] if known else [])])
