"""What counts as right, and what must not."""

import numpy as np
import pytest

from hetero_tvm.output_error import FLOAT16, FLOAT32, compare


def one(output, reference, tolerance=FLOAT32):
    return compare({"y": np.asarray(output)}, {"y": np.asarray(reference)}, tolerance)[0]


def test_equal_is_exact():
    x = np.random.default_rng(0).standard_normal((3, 4), np.float32)
    result = one(x, x)
    assert result.held
    assert (result.max_abs_error, result.relative_error) == (0.0, 0.0)
    assert result.cosine == pytest.approx(1.0)


def test_relative_error_is_a_ratio_of_norms():
    result = one(np.float32([3.0, 4.5]), np.float32([3.0, 4.0]))
    assert result.relative_error == pytest.approx(0.5 / 5)
    assert result.max_abs_error == pytest.approx(0.5)
    assert not result.held


@pytest.mark.parametrize(
    ("output", "reference", "held"),
    [
        pytest.param([np.nan, 1], [np.nan, 1], True, id="nan_in_the_same_place"),
        pytest.param([np.nan, 1], [2, 1], False, id="nan_for_a_number"),
        pytest.param([np.inf, 1], [np.inf, 1], True, id="inf_in_the_same_place"),
        pytest.param([np.inf, 1], [-np.inf, 1], False, id="inf_of_the_other_sign"),
        pytest.param([0, 0], [0, 0], True, id="both_zero"),
        pytest.param([1e-9, 0], [0, 0], False, id="anything_for_zero"),
        pytest.param([0, 0], [1, 1], False, id="zero_for_anything"),
    ],
)
def test_special_values(output, reference, held):
    assert one(np.float32(output), np.float32(reference)).held is held


def test_integers_must_be_equal():
    reference = np.arange(100_000)
    output = reference.copy()
    output[5] += 1  # a relative error of about 1e-9
    assert not one(output, reference, FLOAT16).held


@pytest.mark.parametrize("output", [np.zeros((2, 2), np.float32), np.zeros(4, np.float16)])
def test_other_shape_or_dtype_never_holds(output):
    assert not one(output, np.zeros(4, np.float32)).held
