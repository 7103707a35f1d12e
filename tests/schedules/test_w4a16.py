"""Products with 4-bit weights equal float64 ones of the dequantised weight."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_gpu import assert_close, gpu_spec, kernels, lower, normal, run_lowered
from tvm import relax

from schedules.rounded_rows import STRETCH
from schedules.w4a16 import W4Layout, W4Weight, pack_w4, takes, w4a16_product, w4a16_tile

_PHONE = "snapdragon-8-gen-3"
# float32 sums of a few hundred products, in another order.
_TOLERANCE = 1e-5
# The same, rounded to float16 at the end.
_HALF_TOLERANCE = 1e-3


def _weight(
    depth: int,
    columns: int,
    group: int,
    *,
    zeros: str = "none",
    scale: str = "float32",
    bits: int = 4,
) -> W4Weight:
    random = np.random.default_rng(depth + columns)
    groups = -(-depth // group)
    made = {
        "none": None,
        "whole": random.integers(0, 1 << bits, (groups, columns)).astype(np.uint8),
        "real": (random.random((groups, columns)) * ((1 << bits) - 1)).astype(np.float32),
    }
    return W4Weight(
        codes=random.integers(0, 1 << bits, (depth, columns)).astype(np.uint8),
        scales=(random.random((groups, columns)) + 0.01).astype(scale),
        zeros=made[zeros],
        group=group,
        bits=bits,
    )


def _run(
    x: np.ndarray,
    weight: W4Weight,
    target: str = "host",
    bias: np.ndarray | None = None,
    *,
    before: str | None = None,
    denormals: bool | None = None,
    vector_width: int = 0,
):
    """The product of `x`, of what the operator `before` makes of it."""
    data = relax.Var("x", relax.TensorType(x.shape, str(x.dtype)))
    gpu = dataclasses.replace(gpu_spec(target), denormals=denormals)
    if vector_width:
        gpu = dataclasses.replace(gpu, vector_width=vector_width)
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
    products = [name for name in kernels(lowered) if "rounded_rows" not in name]
    assert len(products) == (2 if before else 1)
    (got,) = run_lowered(lowered, [x], target=target)
    return got


def _assert_close_rounded(
    got: np.ndarray, x: np.ndarray, weight: W4Weight, want: np.ndarray, tolerance: float
) -> None:
    """As `assert_close`, and what activations lose of 16 bits: half a scale times a code each."""
    largest = np.abs(x.astype(np.float64)).reshape(len(x), -1, STRETCH).max(axis=2)
    codes = dataclasses.replace(weight, zeros=np.zeros(weight.scales.shape, np.uint8))
    lost = np.repeat(largest / 65534, STRETCH, axis=1) @ codes.dequantised()
    allowed = lost + tolerance * np.abs(want).max()
    assert got.shape == want.shape
    assert (np.abs(got - want) <= allowed).all(), np.abs(got - want).max()


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("zeros", ["none", "whole", "real"])
def test_one_row(group, zeros):
    weight = _weight(256, 200, group, zeros=zeros)
    x = normal(1, 1, 256)
    want = x @ weight.dequantised()
    assert_close(_run(x, weight, _PHONE), want, _TOLERANCE)
    _assert_close_rounded(_run(x, weight), x, weight, want, _TOLERANCE)


@pytest.mark.parametrize("zeros", ["none", "whole", "real"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 200), (9, 70)])
def test_eight_bits(zeros, rows, columns):
    weight = _weight(256, columns, 64, zeros=zeros, bits=8)
    x, bias = normal(1, rows, 256), normal(2, columns)
    want = x.astype(np.float64) @ weight.dequantised() + bias
    _assert_close_rounded(_run(x, weight, bias=bias), x, weight, want, _TOLERANCE)


def test_sums_of_eight_bits_at_their_largest():
    """Every number and every code is as large as it can be; whole numbers hold their sum."""
    codes = np.full((64, 16), 255, np.uint8)
    scales = np.ones((1, 16), np.float32)
    weight = W4Weight(codes=codes, scales=scales, zeros=None, group=64, bits=8)
    for x in (np.ones((1, 64), np.float32), -np.ones((1, 64), np.float32)):
        assert_close(_run(x, weight), x @ weight.dequantised(), _TOLERANCE)


def test_which_weights_have_kernels():
    host, phone = gpu_spec(), gpu_spec(_PHONE)
    assert takes(host, 64, 32, 8) and not takes(phone, 64, 32, 8)  # items in lockstep: not written
    assert takes(host, 40, 8, 4) and takes(phone, 40, 8, 4)
    assert not takes(host, 40, 32, 8) and not takes(host, 64, 16, 8) and not takes(host, 12, 4, 4)
    assert not takes(host, 64, 32, 2)


@pytest.mark.parametrize("vector_width", [4, 8])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [1, 7])
def test_short_vectors(rows, vector_width, bits):
    weight = _weight(96, 50, 32, bits=bits)
    x = normal(1, rows, 96)
    got = _run(x, weight, vector_width=vector_width)
    _assert_close_rounded(got, x, weight, x @ weight.dequantised(), _TOLERANCE)


def test_rounding_harms_no_more_than_it_says_beside_a_large_neighbour():
    weight = _weight(128, 32, 32)
    x = normal(3, 2, 128)
    x[0, 40], x[1] = 1e6, 1e-35  # one that outweighs its neighbours; all below what is rounded
    want = x.astype(np.float64) @ weight.dequantised()
    got = _run(x, weight)
    _assert_close_rounded(got[:1], x[:1], weight, want[:1], _TOLERANCE)
    assert np.abs(got[1]).max() <= 1e-30


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none(value):
    x = normal(1, 2, 64)
    x[0, 5] = value
    got = _run(x, _weight(64, 32, 32))
    assert not np.isfinite(got[0]).any() and np.isfinite(got[1]).all()


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
    got = _run(x, weight, bias=bias)
    if w4a16_tile(gpu_spec(), (rows, 8 * words, columns), 32, is_aligned=True)[1].pairs:
        _assert_close_rounded(got, x, weight, want, _TOLERANCE)
    else:
        assert_close(got, want, _TOLERANCE)


def test_many_rows_of_a_weight_that_no_cache_holds_rounded():
    depth, columns = 8192 + 4096, 200
    tile, layout = w4a16_tile(gpu_spec(), (300, depth, columns), 64, is_aligned=True)
    assert layout.pairs and tile.block_rows > 1 and tile.block_depth > 0
    weight = _weight(depth, columns, 64, zeros="whole")
    x = normal(1, 300, depth)
    want = x.astype(np.float64) @ weight.dequantised()
    _assert_close_rounded(_run(x, weight), x, weight, want, _TOLERANCE)


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
def test_many_rows_of_groups_too_short_for_pairs(dtype, tolerance):
    depth, columns = 2048, 1000
    _, layout = w4a16_tile(gpu_spec(), (100, depth, columns), 16, is_aligned=True)
    assert not layout.pairs
    weight = _weight(depth, columns, 16, zeros="real")
    x, bias = normal(1, 100, depth, dtype=dtype), normal(2, columns, dtype=dtype)
    want = x.astype(np.float64) @ weight.dequantised() + bias
    assert_close(_run(x, weight, bias=bias), want, tolerance)


def _assert_written_again(read, packed, scales, zeros, points):
    """What was read is written as the file has it; zero points that are no codes cannot be."""
    again = read.to_blocks()
    if zeros == "real":
        assert again is None
        return
    np.testing.assert_array_equal(again[0], packed)
    np.testing.assert_array_equal(again[1], scales)
    assert (again[2] is None) == (points is None)
    assert points is None or np.array_equal(again[2], points)


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
    _assert_written_again(read, packed, weight.scales.T, zeros, parts)


@pytest.mark.parametrize("zeros", ["none", "whole", "real"])
def test_blocks_of_onnx_of_eight_bits(zeros):
    weight = _weight(96, 6, 32, zeros=zeros, bits=8)
    packed = weight.codes.T.reshape(6, 3, 32)
    parts = None if weight.zeros is None else weight.zeros.T.reshape(-1)
    read = W4Weight.from_blocks(packed, weight.scales.T.reshape(-1), parts, 96, bits=8)
    assert np.array_equal(read.dequantised(), weight.dequantised())
    stored = None if parts is None else parts.reshape(6, 3)
    _assert_written_again(read, packed, weight.scales.T, zeros, stored)


@pytest.mark.parametrize(("bits", "packed", "stored"), [(4, 0x88, 16), (8, 0x80, 32)])
def test_zero_points_in_the_middle_need_not_be_read(bits, packed, stored):
    codes = np.zeros((6, 1, stored), np.uint8)
    zeros = np.full(6, packed, np.uint8)
    scales = np.ones((6, 1), np.float32)
    assert W4Weight.from_blocks(codes, scales, zeros, 32, bits=bits).zeros is None
    zeros[3] += 1
    assert W4Weight.from_blocks(codes, scales, zeros, 32, bits=bits).zeros is not None


def test_words_of_eight_bits_hold_codes_that_are_16_apart():
    codes = np.arange(32, dtype=np.uint8).reshape(32, 1)
    scales = np.ones((1, 1), np.float32)
    weight = W4Weight(codes=codes, scales=scales, zeros=None, group=32, bits=8)
    panels = pack_w4(weight, W4Layout(panel=4, pairs=True))
    words = [hex(word) for word in panels.words[0, :3, 0]]
    assert words == ["0x11100100", "0x13120302", "0x15140504"]


def test_words_hold_the_lowest_k_lowest():
    codes = np.arange(16, dtype=np.uint8).reshape(16, 1)
    scales = np.ones((1, 1), np.float32)
    panels = pack_w4(W4Weight(codes=codes, scales=scales, zeros=None, group=16), W4Layout(panel=4))
    assert panels.words.shape == (1, 2, 4)
    assert [hex(word) for word in panels.words[0, :, 0]] == ["0x76543210", "0xfedcba98"]


def test_words_of_pairs_hold_codes_that_are_16_apart():
    codes = np.arange(64, dtype=np.uint8).reshape(64, 1) % 32 // 2
    scales = np.ones((2, 1), np.float32)
    weight = W4Weight(codes=codes, scales=scales, zeros=None, group=32)
    panels = pack_w4(weight, W4Layout(panel=4, pairs=True))
    words = [hex(word) for word in panels.words[0, :4, 0]]
    assert words == ["0x99881100", "0xbbaa3322", "0xddcc5544", "0xffee7766"]


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
        (
            {"codes": np.zeros((12, 4), np.uint8)},
            "depth 12, in groups of 8: both must be",
        ),
        ({"codes": np.full((16, 4), 16, np.uint8)}, "go up to 16, not 15"),
        ({"bits": 8}, "of 8 bits, depth 16, in groups of 8: both must be multiples of 32"),
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


@pytest.mark.parametrize("group", [16, 32])
def test_one_row_reads_one_strip_at_a_time(group):
    for columns in (96, 576, 1536, 49152):
        tile, layout = w4a16_tile(gpu_spec(), (1, 576, columns), group, is_aligned=True)
        assert tile.panel == layout.lanes
        many = w4a16_tile(gpu_spec(), (128, 576, columns), group, is_aligned=True)[1]
        assert many == layout  # the same words
