"""Numbers of the emitters in `shaping`, row by row, against TVM's own kernels."""

import npu_numbers
import numpy as np
import pytest
from npu_op_cases import Case
from onnx import TensorProto
from tvm import relax

from relay_passes.npu_onnx import region_to_onnx, shaping


@pytest.mark.parametrize("case", npu_numbers.cases_of(shaping), ids=lambda case: case.name)
def test_same_numbers_as_tvm(case):
    npu_numbers.check(case)


def test_constant_indices_become_int32():
    x = relax.Var("x", relax.TensorType((5, 7), "float32"))
    index = relax.const(np.array([1, 3], "int64"))
    case = Case("take", lambda x: relax.op.take(x, index, axis=0), [(5, 7)])
    model = region_to_onnx(case.function(), half_inside=True)
    (written,) = model.graph.initializer
    assert written.data_type == TensorProto.INT32
    assert shaping.slice_bounds(relax.op.strided_slice(x, [-1], [1], [99])) == [(1, 1, 7, 1)]
