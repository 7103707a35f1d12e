"""8-bit numbers, where TVM's vectors would be wrong."""

from __future__ import annotations

import numpy as np
import pytest
from on_gpu import kernels, lower, module, run
from tvm import relax


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 64)], ids=["across_rows", "within_rows"])
def test_numbers(dtype, shape):
    rng = np.random.default_rng(3)
    x, y = (rng.integers(0, 50, shape).astype(dtype) for _ in range(2))
    np.testing.assert_array_equal(run(relax.op.add, x, y), x + y)
    np.testing.assert_array_equal(run(relax.op.permute_dims, x), x.T)
    got = run(lambda a: relax.op.astype(a, "float32"), x)
    np.testing.assert_array_equal(got, x.astype(np.float32))


def test_only_functions_with_bytes_lose_their_vectors():
    def vectors(dtype):
        func = kernels(lower(module(relax.op.add, *[((2, 64), dtype)] * 2)))
        return any("vectorized" in str(kernel) for kernel in func.values())

    assert vectors("float32")
    assert not vectors("int8")
