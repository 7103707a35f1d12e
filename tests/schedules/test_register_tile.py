"""Tiles waste little, fit the device, and the rule declines what it cannot keep right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from on_gpu import gpu_spec
from tvm import te, tirx

from schedules.last_resort import LastResort
from schedules.register_tile import (
    TILE_ATTR,
    RegisterTile,
    RegisterTiled,
    choose_tile,
    contraction,
    round_up,
    weight_strip,
)

_TARGETS = ["host", "snapdragon-8-gen-2", "snapdragon-8-gen-3", "snapdragon-x-elite"]


@pytest.mark.parametrize("target", _TARGETS)
@given(rows=st.integers(0, 5000), columns=st.integers(0, 5000))
def test_a_tile_fits_the_device(target, rows, columns):
    gpu = gpu_spec(target)
    tile = choose_tile(gpu, rows, columns)
    assert 1 <= tile.items_x * tile.items_y <= gpu.max_work_group_size
    assert tile.lanes in (1, 2, 4, 8, 16)
    assert tile.rows * tile.vectors <= 24


@given(rows=st.integers(4, 600), columns=st.integers(16, 600))
def test_a_core_wastes_about_half_at_most(rows, columns):
    """Over all these sizes the worst is 0.458, at 11 x 16 (tried one by one)."""
    tile = choose_tile(gpu_spec(), rows, columns)
    work = round_up(rows, tile.group_rows) * round_up(columns, tile.panel)
    assert rows * columns / work >= 0.45


@given(rows=st.integers(1, 300), columns=st.integers(1, 5000))
def test_a_core_reads_one_form_of_a_weight_with_any_number_of_rows(rows, columns):
    gpu = gpu_spec()
    strip = weight_strip(gpu, columns)
    panel = choose_tile(gpu, rows, columns, strip=strip).panel
    assert strip % panel == 0 or panel % strip == 0
    assert round_up(columns, panel) <= round_up(columns, strip)  # no more than is there
    assert weight_strip(gpu_spec("snapdragon-8-gen-3"), columns) == 0


def test_the_annotation_holds_the_tile():
    tile = RegisterTile(rows=7, vectors=2, lanes=8, items_x=4, items_y=3)
    assert RegisterTile.from_attr(tile.to_attr()) == tile


def _product(epilogue) -> tirx.PrimFunc:
    tile = choose_tile(gpu_spec(), 8, 32)
    a, w = te.placeholder((8, 4), name="a"), te.placeholder((1, 4, 32), name="w")
    k = te.reduce_axis((0, 4), name="k")
    sums = contraction((1, 8, 32), [k], lambda z, m, n: a[m, k] * w[n // 32, k, n % 32], tile)
    return te.create_prim_func([a, w, epilogue(sums)])


def test_declines_an_epilogue_that_reads_two_places():
    func = _product(lambda s: te.compute((8, 32), lambda i, j: s[0, i, j] + s[0, 7 - i, j]))
    assert RegisterTiled().apply(func, _opencl()) is None
    assert LastResort(gpu_spec()).apply(func, _opencl()) is not None


def test_declines_a_function_without_a_tile():
    a = te.placeholder((8,), name="a")
    func = te.create_prim_func([a, te.compute((8,), lambda i: a[i] + 1)])
    assert RegisterTiled().apply(func, _opencl()) is None


def test_the_annotation_is_gone_from_the_schedule():
    func = _product(lambda s: te.compute((8, 32), lambda i, j: s[0, i, j]))
    scheduled = RegisterTiled().apply(func, _opencl())
    assert TILE_ATTR in func.script()
    assert scheduled is not None


def _opencl():
    from schedules.tvm_target import tvm_target

    return tvm_target(gpu_spec())
