"""What an attention is, and the loops that its kernels share."""

from __future__ import annotations

import numpy as np
import pytest
from attention_cases import attention
from tvm import tirx

from schedules.attention_spec import LOWEST, lanes_of


def test_heads_that_cannot_be_shared_are_refused():
    with pytest.raises(ValueError, match="5 query heads do not share 2 key heads"):
        attention(q_heads=5)


def test_other_storage_is_refused():
    with pytest.raises(ValueError, match="not int8"):
        attention(dtype="int8")


def test_shapes():
    case = attention(rows=3, head_dim=8, value_dim=4)
    assert case.query_shape == (1, 4, 3, 8)
    assert case.key_shape == (1, 2, 70, 8)
    assert case.value_shape == (1, 2, 70, 4)
    assert case.out_shape == (1, 3, 16)
    assert case.piece_shapes(5) == [(1, 4, 5, 4), (1, 4, 5, 2)]


@pytest.mark.parametrize(("length", "lanes"), [(64, 16), (40, 8), (6, 2), (7, 1)])
def test_vectors_divide_the_length(length, lanes):
    assert lanes_of(length, 16) == lanes


def test_the_lowest_score_is_a_number_whose_differences_are_numbers():
    lowest = np.float32(LOWEST)
    assert np.exp(lowest - lowest) == 1
    assert np.isfinite(tirx.const(LOWEST, "float32").value)
