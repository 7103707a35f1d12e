"""Prefill and decode where a work-item is a core, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from attention_cases import attention, cases, check, expected, inputs, run
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.attention_core import core_tile


@settings(max_examples=4, deadline=None)
@given(cases(st.integers(2, 60)))
def test_prefill(case):
    check(case[0], inputs(*case))


@settings(max_examples=4, deadline=None)
@given(cases(st.just(1)))
def test_decode(case):
    check(case[0], inputs(*case))


@pytest.mark.parametrize("rows", [1, 20])
def test_large_scores_neither_overflow_nor_lose_the_highest(rows):
    case = attention(rows=rows, head_dim=64, value_dim=64, max_context=200)
    check(case, inputs(case, 150, size=30.0))


@pytest.mark.parametrize("rows", [1, 20])
def test_equal_scores_give_the_mean_of_the_values(rows):
    case = attention(rows=rows, max_context=100)
    query, key, value, past = inputs(case, 60)
    check(case, [np.zeros_like(query), key, value, past])


def test_rows_behind_the_end_of_the_cache_leave_the_others_right():
    case = attention(rows=12, max_context=64)
    arrays = inputs(case, 60)
    whole = attention(rows=4, max_context=64)
    want = expected(whole, [arrays[0][:, :, :4], *arrays[1:]])
    np.testing.assert_allclose(run(case, arrays)[:, :4], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("head_dim", "rows", "shape"),
    [(64, 256, (16, 3, 64)), (128, 256, (16, 1, 32)), (256, 256, (16, 1, 16)), (64, 2, (4, 1, 64))],
)
def test_tiles_stay_in_the_first_level_cache(head_dim, rows, shape):
    tile = core_tile(attention(rows=rows, head_dim=head_dim, value_dim=head_dim), 16)
    assert (tile.lanes, tile.vectors, tile.keys) == shape
    assert 4 * tile.dim * (2 * tile.rows + tile.keys) <= 48 << 10
