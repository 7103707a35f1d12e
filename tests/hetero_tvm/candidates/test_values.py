import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetero_tvm.candidates import values
from schedules import verify


def test_the_same_bytes_everywhere():
    """Printed once by this function on CPython 3.9, 3.10, 3.11 and 3.13."""
    assert zlib.crc32(values.drawn(7, 1, 1000, "float32", edge=False)) == 0xCFBE9300
    assert zlib.crc32(values.drawn(7, 1, 1000, "float16", edge=True)) == 0x6B968654


@pytest.mark.parametrize("dtype", values.DTYPES)
def test_counts_and_types(dtype):
    numbers = np.frombuffer(values.drawn(3, 0, 777, dtype, edge=False), dtype)
    assert numbers.shape == (777,)
    other = np.frombuffer(values.drawn(3, 1, 777, dtype, edge=False), dtype)
    assert (numbers != other).any()
    if dtype.startswith("float"):
        assert np.abs(numbers).max() <= 2 and numbers.std() > 1
    elif dtype == "uint32":
        assert numbers.max() > 1 << 31  # whole words: kernels take them apart
    else:
        assert set(numbers.tolist()) == {0, 1}


def test_edge_values():
    numbers = np.frombuffer(values.drawn(3, 0, 4096, "float32", edge=True), "float32")
    zeros = numbers[numbers == 0]
    assert np.signbit(zeros).any() and not np.signbit(zeros).all()
    assert np.abs(numbers).max() > 100 and 0 < np.abs(numbers[numbers != 0]).min() < 1e-3
    ones = "".join("1" if n == 1 else "0" for n in numbers)
    assert "1" * 200 in ones


def test_filling_is_what_no_kernel_gives():
    assert set(values.unpacked(values.filling(5, "float32"), "float32")) == {
        float(np.float32(-3e38))
    }
    assert values.filling(3, "int8") == b"\0\0\0"


@given(st.data())
def test_errors_are_those_of_a_verification(data):
    """Pure Python and numpy judge alike, infinities and NaN included."""
    dtype = data.draw(st.sampled_from(["float32", "float16", "int32"]))
    seed = data.draw(st.integers(0, 1 << 30))
    random = np.random.default_rng(seed)
    want = (random.standard_normal(40) * 10).astype(dtype)
    got = want.copy()
    if data.draw(st.booleans()):
        got[random.integers(40)] += random.choice([1, 1e-3, 50]).astype(dtype)
    if dtype != "int32":
        want = want.astype("float32")
        for array in (want, got):
            if data.draw(st.booleans()):
                array[3] = random.choice([np.inf, -np.inf, np.nan, 6e4])
    expected = verify.relative_error(got, want.astype("float64") if dtype != "int32" else want)
    found = values.relative_error(
        values.unpacked(got.tobytes(), dtype),
        values.unpacked(want.tobytes(), str(want.dtype)),
        dtype,
    )
    if math.isfinite(expected):
        assert found == pytest.approx(expected, rel=1e-5)
    else:
        assert not math.isfinite(found)
