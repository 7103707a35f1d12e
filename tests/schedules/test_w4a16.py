"""Products with 4-bit weights equal float64 ones of the dequantised weight."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_gpu import assert_close, gpu_spec, kernels, lower, normal, run_lowered
from tvm import relax

from schedules.w4a16 import W4Weight, pack_w4, w4a16_product

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


def _run(x: np.ndarray, weight: W4Weight, target: str = "host", bias: np.ndarray | None = None):
    data = relax.Var("x", relax.TensorType(x.shape, str(x.dtype)))
    builder = relax.BlockBuilder()
    with builder.function("main", [data]):
        with builder.dataflow():
            result = builder.emit(w4a16_product(builder, gpu_spec(target), data, weight))
            if bias is not None:
                result = builder.emit(relax.op.add(result, relax.const(bias)))
            out = builder.emit_output(result)
        builder.emit_func_output(out)
    lowered = lower(builder.get(), target)
    assert len(kernels(lowered)) == 1
    (got,) = run_lowered(lowered, [x], target=target)
    return got


@pytest.mark.parametrize("target", ["host", "snapdragon-8-gen-3"])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("zeros", ["none", "whole", "real"])
def test_one_row(target, group, zeros):
    weight = _weight(256, 200, group, zeros=zeros)
    x = normal(1, 1, 256)
    assert_close(_run(x, weight, target), x @ weight.dequantised(), _TOLERANCE)


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


def test_many_rows_of_a_weight_that_no_cache_holds():
    weight = _weight(2048, 1024, 32)
    x = normal(1, 100, 2048)
    assert_close(_run(x, weight), x @ weight.dequantised(), _TOLERANCE)


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
    panels = pack_w4(W4Weight(codes=codes, scales=scales, zeros=None, group=16), panel=4)
    assert panels.words.shape == (1, 2, 4)
    assert [hex(word) for word in panels.words[0, :, 0]] == ["0x76543210", "0xfedcba98"]


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
