"""Questions about constants."""

import numpy as np
from tvm import relax

from relay_passes.constants import array_of, is_number, number_of, tensor_constant


def test_values():
    two = tensor_constant(np.array([2.0], "float32"))
    assert (number_of(two), array_of(two).shape) == (2.0, (1,))
    assert number_of(tensor_constant(np.zeros(3))) is None
    assert array_of(relax.Var("x", relax.TensorType((2,), "float32"))) is None


def test_numbers_up_to_rounding():
    root = tensor_constant(np.float32(np.sqrt(2)))
    assert is_number(root, 2**0.5)
    assert not is_number(root, 1.4142)


def test_constants_keep_dtype_and_rank():
    value = tensor_constant(np.array(7, "int64"))
    assert (str(value.ty.dtype), len(value.ty.shape.values)) == ("int64", 0)
