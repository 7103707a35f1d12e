"""Shared schedule steps."""

from __future__ import annotations

import pytest
from tvm import s_tir, te

from schedules.blocks import (
    annotate_unroll,
    axes,
    extent,
    follow_accumulator,
    inline_all_but,
    is_reduction,
    leaf_blocks,
)


def _schedule():
    a = te.placeholder((6, 8), name="a")
    k = te.reduce_axis((0, 8), name="k")
    total = te.compute((6,), lambda i: te.sum(a[i, k], axis=k), name="total")
    shifted = te.compute((6,), lambda i: total[i] + 1, name="shifted")
    spread = te.compute((2, 3), lambda i, j: shifted[i * 3 + j] * 2, name="spread")
    return s_tir.Schedule(te.create_prim_func([a, spread]))


def test_axes_and_kinds():
    sch = _schedule()
    total, shifted, _ = leaf_blocks(sch)
    assert is_reduction(sch, total)
    assert not is_reduction(sch, shifted)
    spatial, reduced = axes(sch, total)
    assert [extent(sch, loop) for loop in (*spatial, *reduced)] == [6, 8]


def test_everything_else_is_inlined_into_the_last():
    sch = _schedule()
    blocks = leaf_blocks(sch)
    final = inline_all_but(sch, blocks[0], blocks)
    assert [sch.get(block).name_hint for block in leaf_blocks(sch)] == ["total", "spread"]
    assert sch.get(final).name_hint == "spread"


def test_the_epilogue_takes_the_accumulators_axes():
    sch = _schedule()
    blocks = leaf_blocks(sch)
    final = inline_all_but(sch, blocks[0], blocks)
    follow_accumulator(sch, blocks[0], final)
    assert [extent(sch, loop) for loop in sch.get_loops(final)] == [6]


def test_an_epilogue_that_reads_elsewhere_is_refused():
    a = te.placeholder((6, 8), name="a")
    k = te.reduce_axis((0, 8), name="k")
    total = te.compute((6,), lambda i: te.sum(a[i, k], axis=k), name="total")
    both = te.compute((6,), lambda i: total[i] + total[5 - i], name="both")
    sch = s_tir.Schedule(te.create_prim_func([a, both]))
    with pytest.raises(s_tir.ScheduleError, match="reads the accumulator at"):
        follow_accumulator(sch, *leaf_blocks(sch))


def test_unrolling_stops_at_the_limit():
    a = te.placeholder((4, 5, 6), name="a")
    sch = s_tir.Schedule(te.create_prim_func([a, te.compute((4, 5, 6), lambda *i: a(*i) + 1)]))
    (block,) = leaf_blocks(sch)
    annotate_unroll(sch, sch.get_loops(block), 30)
    assert sch.mod["main"].script().count("T.unroll") == 2
