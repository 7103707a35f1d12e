"""Blocks cover the result without much in vain, fit the caches, and change no number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from on_gpu import assert_close, gpu_spec, kernels, lower, module, normal, run_lowered
from tvm import relax

from schedules import cache_block
from schedules.cache_block import blocked
from schedules.register_tile import choose_tile, round_up


def _tile(rows: int, columns: int, depth: int, target: str = "host"):
    gpu = gpu_spec(target)
    return blocked(gpu, choose_tile(gpu, rows, columns), (1, rows, columns), depth)


@given(rows=st.integers(1, 2000), columns=st.integers(1, 6000), depth=st.integers(1, 20000))
def test_a_block_divides_the_work(rows, columns, depth):
    tile = _tile(rows, columns, depth)
    plain = choose_tile(gpu_spec(), rows, columns)
    assert round_up(columns, tile.panel) // tile.panel % tile.block_panels == 0
    assert not tile.block_depth or depth % tile.block_depth == 0
    # Less than a tile of each block is computed in vain.
    blocks = -(-rows // tile.group_rows)
    assert round_up(rows, tile.group_rows) - round_up(rows, plain.rows) < blocks * plain.rows
    # The sums of a block: 16 tiles of 9 rows, 4 panels of 32 columns (2 x 16 or 1 x 32 lanes).
    sums = tile.group_rows * tile.panel * tile.block_panels
    assert sums * 4 <= 16 * 24 * 16 * 4 * 4


@pytest.mark.parametrize(
    ("rows", "columns", "depth"),
    [
        pytest.param(128, 384, 384, id="the_weight_fits_a_cache"),
        pytest.param(8, 4096, 4096, id="one_tile_reads_the_weight_once_anyway"),
    ],
)
def test_no_block(rows, columns, depth):
    assert _tile(rows, columns, depth) == choose_tile(gpu_spec(), rows, columns)


def test_no_block_where_items_run_in_lockstep():
    tile = _tile(512, 4096, 4096, "snapdragon-8-gen-3")
    assert (tile.block_rows, tile.block_panels, tile.block_depth) == (1, 1, 0)


def test_a_deep_product_has_all_three():
    tile = _tile(512, 4096, 14336)
    assert tile.block_rows > 1
    assert tile.block_panels > 1
    assert 128 <= tile.block_depth <= 512


def test_groups_are_left_for_other_cores():
    tile = _tile(128, 256, 4096)
    assert 128 // tile.group_rows * (256 // tile.panel) // tile.block_panels >= 16


@pytest.mark.parametrize("permuted", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize(
    ("rows", "columns", "depth"),
    [(33, 128, 256), (40, 96, 384), (131, 130, 256), (17, 65, 130)],
)
def test_numbers(monkeypatch, permuted, rows, columns, depth):
    """Small products are cut into blocks as large ones are."""
    monkeypatch.setattr(cache_block, "_MIN_WEIGHT_BYTES", 0)
    monkeypatch.setattr(cache_block, "_MAX_WHOLE_DEPTH", 0)
    monkeypatch.setattr(cache_block, "_MIN_GROUPS", 1)
    assert _tile(rows, columns, depth).block_rows > 1
    weight, bias = normal(1, depth, columns), normal(2, columns)

    def build(x):
        product = relax.op.add(relax.op.matmul(x, relax.const(weight)), relax.const(bias))
        return relax.op.permute_dims(product) if permuted else product

    x = normal(3, rows, depth)
    lowered = lower(module(build, (x.shape, "float32")))
    assert len(kernels(lowered)) == 1
    (got,) = run_lowered(lowered, [x])
    want = x.astype(np.float64) @ weight + bias
    assert_close(got, want.T if permuted else want, 1e-5)
