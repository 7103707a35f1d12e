"""Numbers of the emitters in `neural`, row by row, against TVM's own kernels."""

import npu_numbers
import pytest

from relay_passes.npu_onnx import neural


@pytest.mark.parametrize("case", npu_numbers.cases_of(neural), ids=lambda case: case.name)
def test_same_numbers_as_tvm(case):
    npu_numbers.check(case)
