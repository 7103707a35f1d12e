"""What converters are given."""

import numpy as np
import pytest

from hetero_tvm.frontend.converters.context import constant, static_shape


@pytest.mark.parametrize("dtype", ["int64", "float64", "float16", "bool"])
def test_constants_keep_dtype_and_rank(dtype):
    scalar = constant(np.array(1, dtype))
    assert (str(scalar.ty.dtype), static_shape(scalar)) == (dtype, ())


def test_constants_are_copies_in_row_order():
    array = np.arange(6, dtype="float32").reshape(2, 3).T
    value = constant(array)
    array[:] = 0
    assert value.value.numpy().tolist() == [[0, 3], [1, 4], [2, 5]]
