"""The rule that always answers gives the right numbers, whatever it is handed."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from on_gpu import assert_close, device, gpu_spec, module, normal, run_lowered
from tvm import relax

from relay_passes.lower_gpu import lower_gpu
from schedules.defaults import default_legalizations
from schedules.last_resort import LastResort
from schedules.tvm_target import tvm_target


@pytest.mark.parametrize(
    ("build", "shapes", "want"),
    [
        pytest.param(relax.op.matmul, [(5, 7), (7, 9)], np.matmul, id="padded_contraction"),
        pytest.param(relax.op.matmul, [(1, 1, 1), (1, 1, 1)], np.matmul, id="all_ones"),
        pytest.param(
            lambda x: relax.op.sum(x), [(3, 4)], lambda x: x.sum(), id="reduce_everything"
        ),
        pytest.param(
            lambda x: relax.op.mean(x, axis=[0]), [(6, 5)], lambda x: x.mean(0), id="mean"
        ),
        pytest.param(
            lambda x: relax.op.argmax(x, 1), [(6, 5)], lambda x: x.argmax(1), id="index_and_value"
        ),
    ],
)
def test_numbers(build, shapes, want):
    device()
    gpu = gpu_spec()
    arrays = [normal(n, *shape) for n, shape in enumerate(shapes)]
    lowered = lower_gpu(
        module(build, *((shape, "float32") for shape in shapes)),
        target=tvm_target(gpu),
        legalizations=default_legalizations(gpu),
        rules=[LastResort(gpu)],
    )
    (got,) = run_lowered(lowered, arrays)
    assert_close(got, np.asarray(want(*arrays)), 1e-5)


def test_declines_other_targets():
    a = tvm.te.placeholder((8,), name="a")
    func = tvm.te.create_prim_func([a, tvm.te.compute((8,), lambda i: a[i] + 1)])
    assert LastResort(gpu_spec()).apply(func, tvm.target.Target({"kind": "llvm"})) is None
