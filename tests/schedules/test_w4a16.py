"""Products with 4-bit weights equal float64 ones of the dequantised weight."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_gpu import assert_close, gpu_spec, kernels, lower, normal, run_lowered
from tvm import relax

from schedules.w4a16 import W4Layout, W4Weight, pack_w4, w4a16_product, w4a16_tile

_PHONE = "snapdragon-8-gen-3"
# float32 sums of a few hundred products, in another order.
_TOLERANCE = 1e-5
# The same, rounded to float16 at the end.
_HALF_TOLERANCE = 1e-3


def _weight(
    depth: int, columns: int, group: int, *, zeros: str = "none", scale: str = "float32"
) -> W4Weight:
    random = np.random.default_rng(depth + columns)
    groups = -(-depth // group)
    made = {
        "none": None,
        "whole": random.integers(0, 16, (groups, columns)).astype(np.uint8),
        "real": (random.random((groups, columns)) * 15).astype(np.float32),
    }
    return W4Weight(
        codes=random.integers(0, 16, (depth, columns)).astype(np.uint8),
        scales=(random.random((groups, columns)) + 0.01).astype(scale),
        zeros=made[zeros],
        group=group,
    )


def _run(
    x: np.ndarray,
    weight: W4Weight,
    target: str = "host",
    bias: np.ndarray | None = None,
    *,
    before: str | None = None,
    denormals: bool | None = None,
):
    """The product of `x`, of what the operator `before` makes of it."""
    data = relax.Var("x", relax.TensorType(x.shape, str(x.dtype)))
    gpu = dataclasses.replace(gpu_spec(target), denormals=denormals)
    builder = relax.BlockBuilder()
    with builder.function("main", [data]):
        with builder.dataflow():
            left = builder.emit(getattr(relax.op, before)(data)) if before else data
            result = builder.emit(w4a16_product(builder, gpu, left, weight))
            if bias is not None:
                result = builder.emit(relax.op.add(result, relax.const(bias)))
            out = builder.emit_output(result)
        builder.emit_func_output(out)
    lowered = lower(builder.get(), target)
    assert len(kernels(lowered)) == (2 if before else 1)
    (got,) = run_lowered(lowered, [x], target=target)
    return got


@pytest.mark.parametrize("target", ["host", "snapdragon-8-gen-3"])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("zeros", ["none", "whole", "real"])
def test_one_row(target, group, zeros):
    weight = _weight(256, 200, group, zeros=zeros)
    x = normal(1, 1, 256)
    assert_close(_run(x, weight, target), x @ weight.dequantised(), _TOLERANCE)


@pytest.mark.parametrize("denormals", [None, True])
@pytest.mark.parametrize(
    ("depth", "columns", "group", "words"),
    [
        pytest.param(2048, 70, 32, 4, id="columns_that_fill_no_panel"),
        pytest.param(1536, 64, 128, 4, id="groups_of_several_steps"),
        pytest.param(1024, 48, 16, 2, id="groups_of_two_words"),
        pytest.param(12288, 32, 64, 4, id="several_rounds"),
    ],
)
def test_several_words_of_what_another_kernel_made(denormals, depth, columns, group, words):
    weight = _weight(depth, columns, group, zeros="whole", scale="float16")
    tile, layout = w4a16_tile(gpu_spec(_PHONE), (1, depth, columns), group, is_aligned=True)
    assert (tile.items_k, layout.words) == (layout.items, words)
    x, bias = normal(1, 1, depth), normal(2, columns)
    got = _run(x, weight, _PHONE, bias, before="abs", denormals=denormals)
    assert_close(got, np.abs(x) @ weight.dequantised() + bias, _TOLERANCE)


def test_an_input_is_taken_a_word_at_a_time():
    _, layout = w4a16_tile(gpu_spec(_PHONE), (1, 2048, 64), 32, is_aligned=False)
    assert layout.words == 1


@settings(max_examples=10, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 150),
    words=st.integers(1, 40),
    scale=st.sampled_from(["float16", "float32"]),
    zeros=st.sampled_from(["none", "whole", "real"]),
)
def test_any_shape_with_a_bias(rows, columns, words, scale, zeros):
    weight = _weight(8 * words, columns, 32, zeros=zeros, scale=scale)
    x, bias = normal(1, rows, 8 * words), normal(2, columns)
    want = x @ weight.dequantised() + bias
    assert_close(_run(x, weight, bias=bias), want, _TOLERANCE)


@pytest.mark.parametrize("target", ["host", "snapdragon-8-gen-3"])
@pytest.mark.parametrize("shape", [(1, 1, 128), (2, 17, 128)])
def test_half_activations(target, shape):
    weight = _weight(128, 96, 32, scale="float16")
    x = normal(1, *shape, dtype="float16")
    want = x.astype(np.float64) @ weight.dequantised()
    assert_close(_run(x, weight, target), want, _HALF_TOLERANCE)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", _TOLERANCE), ("float16", _HALF_TOLERANCE)]
)
@pytest.mark.parametrize("zeros", ["none", "real"])
def test_many_rows_of_a_weight_that_no_cache_holds(zeros, dtype, tolerance):
    depth, columns = 2048, 1000
    _, layout = w4a16_tile(gpu_spec(), (100, depth, columns), 32, is_aligned=True)
    assert layout.as_floats
    weight = _weight(depth, columns, 32, zeros=zeros)
    x, bias = normal(1, 100, depth, dtype=dtype), normal(2, columns, dtype=dtype)
    want = x.astype(np.float64) @ weight.dequantised() + bias
    assert_close(_run(x, weight, bias=bias), want, tolerance)


def test_a_panel_too_deep_to_hold_is_read_as_words():
    depth = 8 * 521  # neither short nor a multiple of a stretch
    _, layout = w4a16_tile(gpu_spec(), (100, depth, 1000), 8, is_aligned=True)
    assert not layout.as_floats


@pytest.mark.parametrize("zeros", ["none", "whole", "real"])
def test_blocks_of_onnx(zeros):
    depth, columns, group = 80, 6, 32  # the last block is half empty
    weight = _weight(depth, columns, group, zeros=zeros)
    codes = np.zeros((columns, 96), np.uint8)
    codes[:, :depth] = weight.codes.T
    blocks = codes.reshape(columns, 3, group)
    packed = blocks[..., ::2] | blocks[..., 1::2] << 4
    parts = weight.zeros
    if zeros == "whole":
        filled = np.concatenate([weight.zeros.T, np.zeros((columns, 1), np.uint8)], axis=1)
        parts = filled[:, ::2] | filled[:, 1::2] << 4
    elif zeros == "real":
        parts = weight.zeros.T.reshape(-1)
    read = W4Weight.from_blocks(packed, weight.scales.T.reshape(-1), parts, depth)
    assert np.array_equal(read.dequantised(), weight.dequantised())


def test_words_hold_the_lowest_k_lowest():
    codes = np.arange(16, dtype=np.uint8).reshape(16, 1)
    scales = np.ones((1, 1), np.float32)
    panels = pack_w4(W4Weight(codes=codes, scales=scales, zeros=None, group=16), W4Layout(panel=4))
    assert panels.words.shape == (1, 2, 4)
    assert [hex(word) for word in panels.words[0, :, 0]] == ["0x76543210", "0xfedcba98"]


def test_words_lie_as_the_items_of_a_group_read_them():
    codes = np.zeros((64, 8), np.uint8)
    codes[::8] = np.arange(8)[:, None]  # word n of a column is n
    scales = np.ones((2, 8), np.float32)
    panels = pack_w4(
        W4Weight(codes=codes, scales=scales, zeros=None, group=32),
        W4Layout(panel=8, strip=4, items=2, words=2),
    )
    assert panels.words.shape == (2, 2, 2, 2, 4)  # strips, rounds, words, items, lanes
    assert panels.words[1, :, :, :, 3].tolist() == [[[0, 2], [1, 3]], [[4, 6], [5, 7]]]
    assert panels.scales.shape == (2, 2, 4)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"codes": np.zeros((12, 4), np.uint8)}, "depth 12 in groups of 8: both must be multiples"),
        ({"codes": np.full((16, 4), 16, np.uint8)}, "go up to 16, not 15"),
        ({"scales": np.ones((1, 4), np.float32)}, r"scales .* are \(1, 4\), must be \(2, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(change, text):
    parts = {
        "codes": np.zeros((16, 4), np.uint8),
        "scales": np.ones((2, 4), np.float32),
        "zeros": None,
        "group": 8,
    }
    with pytest.raises(ValueError, match=text):
        W4Weight(**(parts | change))


def test_one_row_reads_one_strip_at_a_time():
    for columns in (96, 576, 1536, 49152):
        tile, layout = w4a16_tile(gpu_spec(), (1, 576, columns), 32, is_aligned=True)
        assert tile.panel == layout.panel == layout.lanes
        many = w4a16_tile(gpu_spec(), (128, 576, columns), 32, is_aligned=True)[1]
        assert many.lanes == layout.lanes  # the same words in memory
