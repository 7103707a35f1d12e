"""Which kernels an attention becomes, and that their work follows the context."""

from __future__ import annotations

import re

import pytest
from attention_cases import attention, cases, check, inputs, lowered
from hypothesis import given, settings
from hypothesis import strategies as st
from on_gpu import gpu_spec, kernels
from tvm import relax

from relay_passes import attention as ops
from schedules.attention import attention_of, pieces_of

_TARGETS = ["host", "snapdragon-8-gen-3"]


def test_a_step_is_pieces_and_their_sum_and_a_prefill_is_one_kernel():
    assert list(kernels(lowered(attention()))) == ["attention_decode", "attention_combine"]
    assert list(kernels(lowered(attention(rows=2)))) == ["attention_prefill"]


@pytest.mark.parametrize("target", _TARGETS)
@pytest.mark.parametrize("past", [0, 32, 499])
def test_every_number_of_filled_pieces(target, past):
    case = attention(max_context=500)
    assert pieces_of(case, gpu_spec(target)) > 4
    check(case, inputs(case, past), target)


@pytest.mark.parametrize("target", _TARGETS)
@pytest.mark.parametrize("rows", [1, 8])
def test_no_loop_and_no_group_follows_the_room_in_the_cache(target, rows):
    """The same code for a cache of a thousand positions and of a million, but for addresses."""

    def code(max_context: int) -> list[str]:
        mod = lowered(attention(rows=rows, max_context=max_context), target)
        text = "\n".join(func.script() for func in kernels(mod).values())
        return re.findall(r"in range\(.*\)|launch_thread\(.*\)|alloc.*", text)

    assert code(1000) == code(1_000_000)


def test_pieces_are_no_more_than_the_context_has():
    assert pieces_of(attention(max_context=20), gpu_spec()) == 1
    assert pieces_of(attention(max_context=64), gpu_spec()) == 2


@pytest.mark.nightly
@settings(max_examples=40, deadline=None)
@given(case=cases(st.sampled_from([1, 2, 17, 130])), target=st.sampled_from(_TARGETS))
def test_many_random_cases(case, target):
    check(case[0], inputs(*case), target)


def test_the_operator_as_the_importer_writes_it():
    case = attention(rows=3, q_heads=6, softcap=2.0, window=4, value_dim=8)
    shapes = (case.query_shape, case.key_shape, case.value_shape)
    operands = [relax.Var("x", relax.TensorType(shape, "float32")) for shape in shapes]
    past = relax.Var("past", relax.TensorType((1,), "int32"))
    attrs = ops.AttentionAttrs(scale=0.25, softcap=2.0, window=4)
    builder = relax.BlockBuilder()
    call = builder.normalize(ops.attention(*operands, past, attrs))
    assert attention_of(call) == case
