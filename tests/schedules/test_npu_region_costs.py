"""A region's estimate, laid out to its operators, and their price from it."""

import pytest

from schedules.npu_costs import NpuCost
from schedules.npu_region_costs import RegionCost, lay_out

ALONE = {"a": 10.0, "b": 30.0}


def test_the_trace_says_what_is_whose():
    found = lay_out(105.0, 5.0, ALONE, {"a": 0.6, "b": 0.2, "view": 0.1})
    assert found == pytest.approx({"a": 75.0, "b": 25.0})  # and everybody's part of the rest


def test_without_a_trace_prices_keep_their_ratio():
    assert lay_out(105.0, 5.0, ALONE, {}) == pytest.approx({"a": 25.0, "b": 75.0})


def test_what_vanished_in_its_neighbour_costs_nothing():
    assert lay_out(105.0, 5.0, ALONE, {"b": 0.5}) == pytest.approx({"a": 0.0, "b": 100.0})


def test_a_border_dearer_than_the_region_leaves_nothing():
    assert lay_out(3.0, 5.0, ALONE, {"a": 1.0}) == {"a": 0.0, "b": 0.0}


def test_a_lower_bound_takes_nothing_off():
    found = lay_out(55.0, 5.0, ALONE, {"a": 0.9, "b": 0.1}, lower_bound=True)
    assert found == pytest.approx({"a": 45.0, "b": 30.0})


def test_nothing_that_computes():
    assert lay_out(55.0, 5.0, {}, {"view": 1.0}) == {}
    assert lay_out(55.0, 5.0, {"a": 0.0}, {}) == {}


def cost(compute_us, memory_bytes):
    return NpuCost(
        compute_us=compute_us, memory_bytes=memory_bytes, spill_bytes=0, gbps=40.0, order="right",
        provenance="modelled", why="roofline", fixed_us=2.0,
    )  # fmt: skip


@pytest.mark.parametrize("factor", [0.25, 3.0])
@pytest.mark.parametrize("memory_bytes", [0, 4_000_000], ids=["computes", "reads"])
def test_a_price_is_multiplied_and_marked(factor, memory_bytes):
    alone = cost(50.0, memory_bytes)
    inside = RegionCost(factor=factor, why="estimate", lower_bound=True).inside(alone)
    assert inside.us == pytest.approx(factor * alone.us)
    assert (inside.provenance, inside.why) == ("vendor-estimated", "estimate")
    assert inside.lower_bound


def test_beside_the_other_device_memory_still_counts():
    inside = RegionCost(factor=2.0, why="").inside(cost(10.0, 4_000_000))  # 100 µs of memory
    assert inside.us == pytest.approx(204.0)
    assert inside.us_with(0.5) == pytest.approx(204.0)
    assert inside.us_with(0.25) == pytest.approx(400.0)
