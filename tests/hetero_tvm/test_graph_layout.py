"""Boxes in layers: below what leads to them, apart from each other, edges without detours."""

import itertools
import random

import pytest

from hetero_tvm.graph_layout import _GAP, layout

BOX = 40.0


def _random_graph(seed, size=120):
    rng = random.Random(seed)
    widths = {f"n{n}": rng.choice([60.0, 168.0]) for n in range(size)}
    edges = {
        (f"n{rng.randrange(max(0, n - rng.choice([2, 2, 30])), n)}", f"n{n}")
        for n in range(1, size)
        for _ in range(rng.choice([1, 1, 2]))
    }
    return widths, sorted(edges)


@pytest.mark.parametrize("seed", range(5))
def test_no_box_lies_on_another_and_edges_lead_down(seed):
    widths, edges = _random_graph(seed)
    found = layout(widths, edges, BOX)
    layers = {}
    for name, (x, y) in found.at.items():
        layers.setdefault(y, []).append((x - widths[name] / 2, x + widths[name] / 2))
        assert 0 <= x - widths[name] / 2 + 0.1 and x + widths[name] / 2 <= found.width + 0.1
        assert BOX / 2 <= y <= found.height - BOX / 2
    for spans in layers.values():
        for one, two in itertools.pairwise(sorted(spans)):
            assert two[0] - one[1] >= _GAP - 0.2
    for (start, end), way in found.ways.items():
        assert way[0] == (found.at[start][0], found.at[start][1] + BOX / 2)
        assert way[-1] == (found.at[end][0], found.at[end][1] - BOX / 2)
        assert all(a[1] < b[1] for a, b in itertools.pairwise(way))
    assert found.ways.keys() == set(edges)


def test_a_chain_is_a_straight_line():
    names = [f"n{n}" for n in range(30)]
    found = layout(dict.fromkeys(names, 100.0), list(itertools.pairwise(names)), BOX)
    assert {x for x, _ in found.at.values()} == {50.0}


def test_two_chains_do_not_cross():
    """Given in an order in which their edges would."""
    widths = dict.fromkeys(["a0", "b0", "b1", "a1", "a2", "b2"], 80.0)
    edges = [(f"{c}{n}", f"{c}{n + 1}") for c in "ab" for n in range(2)]
    found = layout(widths, edges, BOX)
    sides = {found.at[f"a{n}"][0] < found.at[f"b{n}"][0] for n in range(3)}
    assert len(sides) == 1
    assert all(x == way[0][0] for way in found.ways.values() for x, _ in way)


def test_a_long_edge_passes_beside_the_boxes_between():
    names = [f"n{n}" for n in range(6)]
    edges = [*itertools.pairwise(names), ("n0", "n5")]
    found = layout(dict.fromkeys(names, 100.0), edges, BOX)
    for x, y in found.ways["n0", "n5"][1:-1]:
        (box,) = [at for at in found.at.values() if at[1] == y]
        assert abs(x - box[0]) >= 50


def test_what_leads_to_one_reader_only_stands_near_it():
    """A constant's chain begins late rather than at the top with a long edge."""
    names = ["x", *(f"n{n}" for n in range(8)), "late", "end"]
    edges = [
        ("x", "n0"),
        *[(f"n{n}", f"n{n + 1}") for n in range(7)],
        ("n7", "end"),
        ("late", "end"),
    ]
    found = layout(dict.fromkeys(names, 50.0), edges, BOX)
    assert found.at["late"][1] == found.at["n7"][1]


def test_nothing_is_nothing():
    assert layout({}, [], BOX).at == {}
