"""Attention that an exporter wrote out: recognised in its forms, refused where it is another."""

from __future__ import annotations

import numpy as np
import pytest

from relay_passes.attention import ATTENTION, AttentionAttrs
from relay_passes.fuse_attention import FuseAttention, NotCausal
from relay_passes.program import PlacementError
from relay_passes.rewrite_bindings import dataflow_bindings, is_call
from relay_passes.update_kv_in_place import UpdateKvInPlace
from tests.relay_passes.cached_programs import CAPACITY, PAST, ROWS, causal, program


def fused(mod, mask=None):
    values = causal() if mask is None else mask
    mod = UpdateKvInPlace(["key", "value"], PAST)(mod)
    return FuseAttention(PAST, lambda _mod, masks: [values] * len(masks))(mod)


def ops(mod):
    return [binding.value.op.name for binding in dataflow_bindings(mod["main"])]


@pytest.mark.parametrize(
    ("form", "attrs"),
    [
        pytest.param({}, AttentionAttrs(scale=0.25), id="scaled_scores"),
        pytest.param({"on_query": True}, AttentionAttrs(scale=0.25), id="scaled_query"),
        pytest.param({"guarded": True}, AttentionAttrs(scale=0.25), id="guarded_softmax"),
        pytest.param({"softcap": 3.0}, AttentionAttrs(scale=0.25, softcap=3.0), id="soft_cap"),
    ],
)
def test_becomes_one_operator(form, attrs):
    mod = fused(program(**form))
    calls = [b.value for b in dataflow_bindings(mod["main"]) if is_call(b.value, ATTENTION)]
    assert len(calls) == 1
    found = AttentionAttrs.of(calls[0])
    assert (found.softcap, found.window) == (attrs.softcap, attrs.window)
    assert found.scale == pytest.approx(attrs.scale)
    # Two permutations met and are gone, and nothing of the written-out form is left.
    assert set(ops(mod)) == {"hetero.update_kv", ATTENTION, "relax.reshape"}


@pytest.mark.parametrize("hidden", [-np.inf, -3.4e38, -1e4], ids=["inf", "lowest", "large"])
def test_window_is_read_from_the_values_of_the_mask(hidden):
    mod = fused(program(), causal(4, hidden))
    (call,) = [b.value for b in dataflow_bindings(mod["main"]) if is_call(b.value, ATTENTION)]
    assert AttentionAttrs.of(call).window == 4


def _sees_later():
    return np.zeros((1, 1, ROWS, CAPACITY), np.float32)


def _with_bias():
    return causal() + np.float32(0.5)


def _without_first():
    mask = causal()
    mask[..., 0] = -np.inf
    return mask


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        pytest.param(_sees_later(), "hides something else", id="not_causal"),
        pytest.param(_with_bias(), "adds to the scores of what is seen", id="bias"),
        pytest.param(_without_first(), "hides something else", id="a_hole"),
    ],
)
def test_other_masks_are_refused(mask, message):
    with pytest.raises(NotCausal, match=message):
        fused(program(), mask)


def test_attention_without_a_mask_is_refused():
    with pytest.raises(NotCausal, match=r"has no mask, .*: export a decoder with causal"):
        fused(program(masked=False))


def test_cache_with_another_reader_is_refused():
    with pytest.raises(PlacementError, match="total reads a cache in a form"):
        fused(program(extra_reader=True))
