"""Blocks of few bits, read back by the importer's own reader."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetero_tvm.block_quantization import Blocks, Settings, quantize
from hetero_tvm.frontend.contrib_ops import dequantise_blocks


def _read_back(blocks: Blocks, depth: int, how: Settings) -> np.ndarray:
    return dequantise_blocks(
        blocks.packed,
        blocks.scales,
        blocks.zeros,
        columns=len(blocks.packed),
        rows=depth,
        bits=how.bits,
        block=how.group,
    )


@settings(max_examples=40, deadline=None)
@given(
    columns=st.integers(1, 9),
    depth=st.integers(1, 150),
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([16, 32, 64]),
    symmetric=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float16]),
    offset=st.sampled_from([0.0, 0.5, 3.0]),
    seed=st.integers(0, 1000),
)
def test_what_is_stored_is_as_near_as_is_said(
    columns, depth, bits, group, symmetric, dtype, offset, seed
):
    how = Settings(bits=bits, group=group, symmetric=symmetric)
    weight = (np.random.default_rng(seed).standard_normal((columns, depth)) + offset).astype(dtype)
    blocks = quantize(weight, how)
    wide = weight.astype(np.float64)
    error = wide - _read_back(blocks, depth, how)
    assert np.square(error).sum() == pytest.approx(blocks.squared_error, rel=1e-3, abs=1e-9)
    assert np.abs(error).max() == pytest.approx(blocks.largest_error, rel=1e-3, abs=1e-6)
    # Never worse, in the mean, than a step over the whole range, rounded: its error is a third of
    # half a step, squared; the zero point and the scale are rounded too.
    span = max(wide.max(), 0) - min(wide.min(), 0)
    span = 2 * max(abs(wide.max()), abs(wide.min())) if symmetric else span
    assert np.square(error).mean() <= (span / (2**bits - 2)) ** 2 / 3


def test_cutting_off_a_few_values_is_nearer_than_the_whole_range(monkeypatch):
    weight = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
    how = Settings(group=128, symmetric=True)
    chosen = quantize(weight, how).relative_error
    monkeypatch.setattr("hetero_tvm.block_quantization._WIDTHS", 1)
    assert chosen < 0.95 * quantize(weight, how).relative_error


def test_more_bits_and_smaller_groups_are_nearer():
    weight = np.random.default_rng(1).standard_normal((16, 512)).astype(np.float32)
    errors = [
        quantize(weight, how).relative_error
        for how in (
            Settings(group=128, symmetric=True),
            Settings(group=32, symmetric=True),
            Settings(group=32),
            Settings(group=16),
            Settings(bits=8),
        )
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] == pytest.approx(0.08, abs=0.02)
    assert errors[-1] < 0.01


def test_values_on_the_grid_come_back_exactly():
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 16, (8, 64)).astype(np.float32)
    codes[:, ::16], codes[:, 1::16] = 0, 15
    weight = (codes - 6) * 0.25
    how = Settings(group=16)
    blocks = quantize(weight, how)
    np.testing.assert_array_equal(_read_back(blocks, 64, how), weight)
    assert blocks.squared_error == 0


@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_and_very_small_values(symmetric):
    how = Settings(symmetric=symmetric)
    weight = np.zeros((2, 64), np.float16)
    weight[1] = np.float16(6e-8)
    blocks = quantize(weight, how)
    assert np.isfinite(blocks.scales).all()
    assert np.abs(_read_back(blocks, 64, how) - weight).max() <= 6e-8
    assert quantize(np.zeros((1, 32), np.float32), how).relative_error == 0


def test_large_weights_are_worked_on_in_parts(monkeypatch):
    weight = np.random.default_rng(3).standard_normal((37, 64)).astype(np.float32)
    whole = quantize(weight, Settings())
    monkeypatch.setattr("hetero_tvm.block_quantization._CHUNK_VALUES", 640)
    parts = quantize(weight, Settings())
    np.testing.assert_array_equal(whole.packed, parts.packed)
    np.testing.assert_array_equal(whole.zeros, parts.zeros)
    assert whole.squared_error == pytest.approx(parts.squared_error)


def test_sizes():
    blocks = quantize(np.zeros((6, 96), np.float16), Settings())
    assert (blocks.packed.shape, blocks.scales.shape, blocks.zeros.shape) == (
        (6, 3, 16),
        (6, 3),
        (6, 2),
    )
    assert blocks.nbytes == 6 * (3 * 16 + 2 * 3 + 2)


@pytest.mark.parametrize("fields", [{"bits": 3}, {"group": 20}, {"group": 0}])
def test_settings_that_the_operator_does_not_have(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Settings(**fields)


def test_infinite_weights_are_refused():
    with pytest.raises(ValueError, match="finite"):
        quantize(np.full((1, 32), np.inf, np.float32), Settings())
