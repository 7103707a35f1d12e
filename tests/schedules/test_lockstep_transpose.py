"""Transposes by tiles give exactly what NumPy does, whatever the shape."""

from __future__ import annotations

import numpy as np
import pytest
from on_gpu import assert_close, gpu_spec, kernels, lower, module, normal, run
from tvm import relax, te

from schedules.lockstep_transpose import LockstepTranspose
from schedules.tvm_target import tvm_target

_PHONE = "snapdragon-8-gen-3"


def _is_tiled(build, *shapes):
    mod = lower(module(build, *((shape, "float32") for shape in shapes)), _PHONE)
    (kernel,) = kernels(mod).values()
    return 'scope="shared"' in kernel.script()


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((64, 96), (1, 0)),
        ((33, 70), (1, 0)),
        ((2, 5, 40, 24), (0, 1, 3, 2)),
        ((3, 50, 4, 20), (0, 2, 3, 1)),
        ((40, 6, 50), (2, 1, 0)),
        ((17, 2, 16), (2, 1, 0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "int32", "float16"])
def test_every_element_is_where_numpy_has_it(shape, order, dtype):
    x = (100 * normal(1, *shape)).astype(dtype)

    def build(v):
        return relax.op.permute_dims(v, list(order))

    assert _is_tiled(build, shape)
    np.testing.assert_array_equal(run(build, x, target=_PHONE), x.transpose(order))


def test_arithmetic_around_it():
    x, y = normal(1, 48, 37), normal(2, 37, 48)

    def build(a, b):
        return relax.op.add(relax.op.permute_dims(relax.op.exp(a), [1, 0]), b)

    want = np.exp(x.astype(np.float64)).T + y
    assert_close(run(build, x, y, target=_PHONE), want, 1e-6)


def test_what_transposes_nothing_is_left_alone():
    assert not _is_tiled(relax.op.exp, (64, 64))
    # The last axis stays the last one, or is short.
    assert not _is_tiled(lambda v: relax.op.permute_dims(v, [1, 0, 2]), (20, 30, 40))
    assert not _is_tiled(lambda v: relax.op.permute_dims(v, [0, 2, 1]), (20, 30, 4))


def test_a_core_needs_no_tiles():
    a = te.placeholder((64, 64), name="a")
    func = te.create_prim_func([a, te.compute((64, 64), lambda i, j: a[j, i])])
    for name, answers in ((_PHONE, True), ("host", False)):
        with tvm_target(gpu_spec(name)) as target:
            answer = LockstepTranspose(gpu_spec(name)).apply(func, target)
            assert (answer is not None) == answers
