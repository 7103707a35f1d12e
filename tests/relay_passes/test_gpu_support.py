"""What the OpenCL path declines, and the words it says it in."""

import dataclasses

import numpy as np
import pytest
from tvm import relax, tirx

from relay_passes.gpu_support import decline_reason
from target_specs.loader import load_spec

GPU = load_spec("host").gpu


def V(name, shape, dtype="float32"):
    return relax.Var(name, relax.TensorType(shape, dtype))


def typed(call):
    return relax.BlockBuilder().normalize(call)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        pytest.param(relax.op.matmul(V("x", [2, 3]), V("y", [3, 4])), None, id="matmul"),
        pytest.param(relax.op.add(V("x", [2], "int64"), V("y", [2], "int64")), None, id="int64"),
        pytest.param(relax.op.nn.relu(V("x", [2], "float16")), None, id="half"),
        pytest.param(relax.op.add(V("x", [2], "float64"), V("y", [2], "float64")),
                     "dtype float64", id="double"),
        pytest.param(relax.op.sort(V("x", [9])),
                     "relax.sort has no parallel kernel: it is a serial loop or a host library's",
                     id="sort"),
        pytest.param(relax.op.topk(V("x", [9]), k=2),
                     "relax.topk has no parallel kernel: it is a serial loop or a host library's",
                     id="topk"),
        pytest.param(relax.op.nn.relu(V("x", [tirx.Var("n", "int64"), 2])), "dynamic shape",
                     id="dynamic"),
        pytest.param(relax.op.shape_of(V("x", [2])), "its result is not a tensor", id="shape"),
        pytest.param(relax.op.split(V("x", [4], "float64"), 2), "dtype float64", id="in_a_tuple"),
        pytest.param(
            relax.op.call_dps_packed("f", [V("x", [2])], out_ty=relax.TensorType([2], "float32")),
            "relax.call_dps_packed is a function outside the compiler",
            id="packed",
        ),
    ],
)  # fmt: skip
def test_decline_reason(call, reason):
    assert decline_reason(typed(call), GPU) == reason


def test_half_only_where_the_device_computes_in_it():
    weak = dataclasses.replace(GPU, half=False)
    call = typed(relax.op.multiply(V("x", [2], "float16"), relax.const(np.float16(2))))
    assert decline_reason(call, weak) == f"float16: {GPU.name} does not compute in it"
