"""The kernel with local memory, made for a phone and run on whatever OpenCL device is here."""

from __future__ import annotations

import dataclasses

import pytest
from attention_cases import attention, cases, check, inputs, lowered
from hypothesis import given, settings
from hypothesis import strategies as st
from on_gpu import gpu_spec, kernels

from schedules.attention_wave import wave_tile

_PHONE = "snapdragon-8-gen-3"


@settings(max_examples=3, deadline=None)
@given(cases(st.integers(2, 60)))
def test_prefill(case):
    check(case[0], inputs(*case), _PHONE)


@settings(max_examples=3, deadline=None)
@given(cases(st.just(1)))
def test_decode(case):
    check(case[0], inputs(*case), _PHONE)


@pytest.mark.parametrize("rows", [1, 17])
def test_heads_of_256(rows):
    case = attention(rows=rows, head_dim=256, value_dim=256, scale=1 / 16)
    check(case, inputs(case, 40), _PHONE)


@pytest.mark.parametrize("head_dim", [5, 64, 96, 128, 256, 512])
@pytest.mark.parametrize("local_kib", [16, 32])
@pytest.mark.parametrize("rows", [1, 256])
def test_tiles_fit_the_device(head_dim, local_kib, rows):
    gpu = dataclasses.replace(gpu_spec(_PHONE), local_memory_bytes=local_kib << 10)
    tile = wave_tile(attention(rows=rows, head_dim=head_dim, value_dim=head_dim), gpu)
    assert tile.local_bytes <= gpu.local_memory_bytes
    assert tile.items <= gpu.max_work_group_size
    assert tile.keys % tile.columns == 0


def test_a_head_that_no_tile_holds_is_refused():
    gpu = dataclasses.replace(gpu_spec(_PHONE), local_memory_bytes=4096)
    with pytest.raises(ValueError, match="heads of 2048 do not fit 4096 bytes"):
        wave_tile(attention(head_dim=2048, value_dim=2048), gpu)


def test_scores_never_leave_the_group():
    (kernel,) = kernels(lowered(attention(rows=32), _PHONE)).values()
    buffers = [line for line in kernel.script().splitlines() if "alloc" in line]
    assert buffers
    assert not [line for line in buffers if "global" in line]
