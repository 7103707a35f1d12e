"""What the NPU takes, and the sentence whenever it does not."""

import dataclasses

import numpy as np
import pytest
from npu_op_cases import CASES, IMAGE, norm
from tvm import relax, tirx
from tvm.relax import op as O

from relay_passes.attention import AttentionAttrs, attention, update_kv
from relay_passes.npu_onnx import EMITTERS
from relay_passes.npu_support import decline_reason, is_half_inside, supported_ops
from target_specs.loader import load_spec

HTP = load_spec("snapdragon-8-gen-3").npu
HOST = load_spec("host").npu


def var(*shape, dtype="float32"):
    return relax.Var("x", relax.TensorType(shape, dtype))


def const(value, dtype="float32"):
    return relax.const(np.asarray(value, dtype))


def reason(call, npu=HTP):
    """`call` as it stands in a program, its type known."""
    return decline_reason(relax.BlockBuilder().normalize(call), npu)


def test_every_rule_has_an_emitter_and_the_other_way_round():
    assert supported_ops() == set(EMITTERS)


def test_every_rule_has_a_row_in_the_table():
    assert supported_ops() - {case.call().op.name for case in CASES} == set()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_host_takes_every_row(case):
    assert decline_reason(case.call(), HOST) is None


def test_only_htp_computes_in_float16():
    assert is_half_inside(HTP)
    assert not is_half_inside(HOST)


X, H, I = var(2, 5), var(2, 5, dtype="float16"), var(2, 5, dtype="int32")  # noqa: E741
LONG, BIG = var(2, 5, dtype="int64"), var(1, 2, 1, 2, 1, 2)
PICTURE = var(*IMAGE)
FILTER = const(np.ones((6, 6, 3, 3)))

DECLINED = {
    "unknown": (O.cosh(X), "no NPU rule for relax.cosh"),
    "rank": (O.exp(BIG), "rank 6 is above 5"),
    "empty": (O.strided_slice(X, [0], [1], [1]), "a tensor is empty"),
    "int64": (
        O.add(LONG, LONG),
        "int64 tensors stay off the NPU (an int64 look-up costs 50 times an int32 one)",
    ),
    "int32_tanh": (O.negative(I), "int32 is not taken here, only float16, float32"),
    "large_constant": (
        O.multiply(X, const(1e5)),
        "a constant of 1e+05 is beyond float16, in which the NPU computes",
    ),
    "tiny_constant": (
        O.add(X, const(1e-12)),
        "a constant of 1e-12 would be 0 in float16, in which the NPU computes",
    ),
    "nan": (O.add(X, const(np.nan)), "a constant is not a number"),
    "large_divisor": (
        O.divide(X, const(20000.0)),
        "1/2e+04 is too small for float16, in which the NPU divides",
    ),
    "run_time_exponent": (O.power(X, X), "the exponent is not one constant"),
    "tiny_limit": (
        O.clip(X, 1e-9, 1.0),
        "the limit 1e-09 would be 0 in float16, in which the NPU computes",
    ),
    "float_to_int": (O.astype(X, "int32"), "the NPU does not convert float32 to int32 exactly"),
    "int_to_bool": (O.astype(I, "bool"), "the NPU does not convert int32 to bool exactly"),
    "compare_floats": (
        O.less(X, X),
        "float16, in which the NPU computes, can turn a comparison of float32 values over",
    ),
    "argmax": (
        O.argmax(X, axis=1),
        "float16, in which the NPU computes, can make another element the largest",
    ),
    "argmax_flat": (O.argmax(H), "argmax over the flattened tensor has no ONNX form"),
    "take_inner": (
        O.take(X, var(3, dtype="int32"), axis=1),
        "HTP computes run-time look-ups on inner axes wrongly",
    ),
    "take_wrap": (
        O.take(X, var(3, dtype="int32"), axis=0, mode="wrap"),
        "a run-time look-up in mode wrap has no ONNX form",
    ),
    "take_outside": (
        O.take(X, const([7], "int32"), axis=1),
        "a constant index is outside the tensor",
    ),
    "take_int64": (
        O.take(X, var(3, dtype="int64"), axis=0),
        "int64 tensors stay off the NPU (an int64 look-up costs 50 times an int32 one)",
    ),
    "slice_backwards": (O.strided_slice(X, [1], [4], [0], [-1]), "a negative stride"),
    "pad_reflect": (
        O.nn.pad(X, [0, 0, 1, 1], pad_mode="reflect"),
        "padding mode reflect is not taken",
    ),
    "norm_axes": (
        O.nn.layer_norm(X, const(np.ones((2, 5))), const(np.ones((2, 5))), [0, 1]),
        "HTP normalises over the last axis only",
    ),
    "norm_rank": (
        O.nn.rms_norm(var(1, 1, 2, 2, 5), const(np.ones(5)), [-1]),
        "rank 5 is above 4, HTP's limit for norms",
    ),
    "batch_norm_training": (
        O.nn.batch_norm(PICTURE, *norm(6), axis=1),
        "batch normalisation in training mode",
    ),
    "batch_norm_axis": (
        O.nn.batch_norm(var(1, 4, 6), *norm(6), axis=2, training=False),
        "channels on axis 2, not 1",
    ),
    "conv_layout": (
        O.nn.conv2d(var(1, 11, 13, 6), FILTER, data_layout="NHWC"),
        "data_layout NHWC, not NCHW",
    ),
    "transposed_dilated": (
        O.nn.conv2d_transpose(PICTURE, FILTER, dilation=2),
        "HTP refuses a dilated transposed convolution",
    ),
    "beyond_the_last_window": (
        O.nn.conv2d_transpose(PICTURE, FILTER, (2, 2), (1, 1, 1, 0), (0, 1)),
        "HTP leaves what lies behind the last window unwritten (output_padding)",
    ),
    "pool_dilated": (O.nn.max_pool2d(PICTURE, (3, 3), dilation=2), "HTP refuses a dilated pool"),
    "pool_ceil": (
        O.nn.avg_pool2d(var(1, 6, 12, 14), (3, 3), (2, 2), ceil_mode=True),
        "HTP computes windows beyond the edge (ceil_mode) wrongly",
    ),
    "pool_padded": (
        O.nn.avg_pool2d(PICTURE, (3, 3), (2, 2), (1, 1)),
        "HTP computes padded average pools wrongly",
    ),
    "pool_windows": (O.nn.adaptive_avg_pool2d(PICTURE, (4, 4)), "the windows differ in size"),
    "resize_nearest": (
        O.image.resize2d(PICTURE, (22, 26), method="nearest_neighbor", rounding_method="floor"),
        "HTP computes nearest half_pixel/floor wrongly",
    ),
    "resize_cubic": (
        O.image.resize2d(PICTURE, (22, 26), method="cubic"),
        "cubic half_pixel resizing is not taken",
    ),
    "attention_window": (
        O.nn.attention(
            var(1, 4, 2, 8), var(1, 4, 2, 8), var(1, 4, 2, 8), causal_mask="TopLeft", window_size=2
        ),
        "attention with a sliding window",
    ),
}


@pytest.mark.parametrize(("call", "sentence"), DECLINED.values(), ids=DECLINED)
def test_says_why_not(call, sentence):
    assert reason(call) == sentence


def test_a_shape_unknown_until_run_time():
    x = relax.Var("x", relax.TensorType((tirx.Var("n", "int64"), 5), "float32"))
    assert reason(O.exp(x)) == "a shape is not known at compile time, and NPU graphs are static"


def test_what_works_on_a_cache():
    past, cache, rows = var(1, dtype="int32"), var(1, 2, 16, 8), var(1, 2, 3, 8)
    token, attrs = var(1, 2, 1, 8), AttentionAttrs(scale=1.0)
    assert reason(attention(rows, cache, cache, past, attrs)) is None
    assert "whole cache" in reason(attention(token, cache, cache, past, attrs))
    assert "in place" in reason(update_kv(cache, rows, past))


def test_a_call_of_a_tir_function():
    call = relax.op.call_dps_packed("f", [X], relax.TensorType((2, 5), "float32"))
    assert reason(call) == "no NPU rule for relax.call_dps_packed"


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(O.add(X, const(-3.4e38)), id="a_mask_is_clamped"),
        pytest.param(O.where(var(2, 5, dtype="bool"), X, const(-np.inf)), id="an_infinite_mask"),
        pytest.param(O.less(I, I), id="int32_compares_exactly"),
        pytest.param(O.argmax(H, axis=1), id="float16_is_what_it_computes"),
        pytest.param(
            O.take(X, const([0, 4], "int64"), axis=1), id="constant_indices_are_rewritten"
        ),
        pytest.param(
            O.nn.max_pool2d(var(1, 6, 11, 13), (3, 3), (2, 2), ceil_mode=True), id="ceil_of_a_whole"
        ),
    ],
)
def test_takes(call):
    assert reason(call) is None


@pytest.mark.parametrize("name", ["tiny_constant", "large_divisor", "compare_floats", "argmax"])
def test_float32_npu_takes_what_float16_spoils(name):
    assert reason(DECLINED[name][0], HOST) is None


def test_types_come_from_the_spec():
    no_half = dataclasses.replace(HTP, dtypes=frozenset({"float32"}))
    assert reason(O.exp(H), no_half) == "float16 tensors stay off the NPU"
