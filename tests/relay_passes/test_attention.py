"""The attention operators: types, and the plain lowerings against float64, on the OpenCL device."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from relay_passes.attention import AttentionAttrs, attention, update_kv
from tests.relay_passes import attention_reference
from tests.schedules import on_gpu


def _step(attrs):
    def build(q, k_cache, v_cache, k, v, past):
        builder = relax.BlockBuilder.current()
        keys = builder.emit(update_kv(k_cache, k, past))
        values = builder.emit(update_kv(v_cache, v, past))
        return attention(q, keys, values, past, attrs)

    return build


def _operands(seed, heads, groups, length, capacity, depth, dtype="float32"):
    q = on_gpu.normal(seed, 1, heads, length, depth, dtype=dtype)
    k, v = (on_gpu.normal(seed + n, 1, groups, length, depth, dtype=dtype) for n in (1, 2))
    caches = [on_gpu.normal(seed + n, 1, groups, capacity, depth, dtype=dtype) for n in (3, 4)]
    return q, caches[0], caches[1], k, v


@pytest.mark.parametrize(
    ("heads", "groups", "length", "past", "extra"),
    [
        pytest.param(4, 4, 5, 0, {}, id="multi_head_from_the_start"),
        pytest.param(6, 2, 5, 9, {}, id="grouped"),
        pytest.param(6, 1, 1, 31, {}, id="decode_into_the_last_place"),
        pytest.param(4, 2, 7, 12, {"window": 6}, id="window"),
        pytest.param(4, 2, 3, 12, {"softcap": 2.0}, id="soft_cap"),
    ],
)
def test_equals_float64(heads, groups, length, past, extra):
    attrs = AttentionAttrs(scale=0.4, **extra)
    q, k_cache, v_cache, k, v = _operands(past, heads, groups, length, 32, 8)
    got = on_gpu.run(_step(attrs), q, k_cache, v_cache, k, v, np.array([past], np.int32))
    for cache, rows in ((k_cache, k), (v_cache, v)):
        cache[:, :, past : past + length] = rows
    want = attention_reference.attention(q, k_cache, v_cache, past, scale=0.4, **extra)
    on_gpu.assert_close(got, want, 1e-5)


def test_cache_is_written_in_place_and_only_where_new_rows_lie():
    cache, rows = on_gpu.normal(1, 1, 2, 8, 4), on_gpu.normal(2, 1, 2, 3, 4)

    def build(cache, rows, past):
        builder = relax.BlockBuilder.current()
        return relax.op.add(builder.emit(update_kv(cache, rows, past)), relax.const(0.0))

    got = on_gpu.run(build, cache, rows, np.array([4], np.int32))
    want = cache.copy()
    want[:, :, 4:7] = rows
    np.testing.assert_array_equal(got, want)


def test_rows_behind_the_end_are_dropped():
    cache, rows = on_gpu.normal(1, 1, 1, 8, 4), on_gpu.normal(2, 1, 1, 4, 4)

    def build(cache, rows, past):
        builder = relax.BlockBuilder.current()
        return relax.op.add(builder.emit(update_kv(cache, rows, past)), relax.const(0.0))

    got = on_gpu.run(build, cache, rows, np.array([6], np.int32))
    want = cache.copy()
    want[:, :, 6:] = rows[:, :, :2]
    np.testing.assert_array_equal(got, want)


def test_half_storage_is_summed_in_float32():
    attrs = AttentionAttrs(scale=0.2)
    q, k_cache, v_cache, k, v = _operands(3, 4, 2, 3, 64, 16, "float16")
    got = on_gpu.run(_step(attrs), q, k_cache, v_cache, k, v, np.array([50], np.int32))
    assert got.dtype == np.float16
    for cache, rows in ((k_cache, k), (v_cache, v)):
        cache[:, :, 50:53] = rows
    want = attention_reference.attention(q, k_cache, v_cache, 50, scale=0.2)
    on_gpu.assert_close(got, want, 1e-3)  # one rounding of the result to float16


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        pytest.param(
            [(1, 4, 2, 8), (1, 3, 16, 8), (1, 3, 16, 8)],
            "4 query heads on 3 key heads",
            id="heads_that_do_not_divide",
        ),
        pytest.param(
            [(1, 4, 2, 8), (1, 2, 16, 4), (1, 2, 16, 8)],
            "do not belong together",
            id="another_depth",
        ),
    ],
)
def test_refuses_operands_that_do_not_fit(shapes, message):
    types = [(shape, "float32") for shape in shapes]
    with pytest.raises(ValueError, match=message):
        on_gpu.module(
            lambda q, k, v, past: attention(q, k, v, past, AttentionAttrs(scale=1.0)),
            *types,
            ((1,), "int32"),
        )
