"""Cross-item reductions are for devices with lockstep, and never for contractions."""

from __future__ import annotations

import numpy as np
import pytest
from on_gpu import assert_close, gpu_spec, kernels, lower, module, normal, run
from tvm import relax, te

from schedules.lockstep_reduction import LockstepReduction
from schedules.register_tile import choose_tile, contraction
from schedules.tvm_target import tvm_target

_PHONE = "snapdragon-8-gen-3"


def _row_sum():
    a = te.placeholder((16, 64), name="a")
    k = te.reduce_axis((0, 64), name="k")
    return te.create_prim_func([a, te.compute((16,), lambda i: te.sum(a[i, k], axis=k))])


def test_answers_only_where_items_run_in_lockstep():
    phone, host = gpu_spec("snapdragon-8-gen-3"), gpu_spec("host")
    with tvm_target(phone) as target:
        assert LockstepReduction(phone).apply(_row_sum(), target) is not None
        assert LockstepReduction(host).apply(_row_sum(), target) is None


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("shape", [(6, 700), (2, 5, 64)], ids=["rows", "three_axes"])
def test_the_items_of_a_group_share_a_row(name, shape):
    x = normal(1, *shape)

    def build(v):
        return getattr(relax.op, name)(v, axis=[-1])

    (kernel,) = kernels(lower(module(build, (shape, "float32")), _PHONE)).values()
    assert 'scope="shared"' in kernel.script()
    np.testing.assert_array_equal(run(build, x, target=_PHONE), getattr(np, name)(x, -1))


def test_declines_a_contraction():
    phone = gpu_spec("snapdragon-8-gen-3")
    a, w = te.placeholder((8, 4), name="a"), te.placeholder((1, 4, 64), name="w")
    k = te.reduce_axis((0, 4), name="k")
    tile = choose_tile(phone, 8, 5)
    sums = contraction((1, 8, 5), [k], lambda z, m, n: a[m, k] * w[n // 64, k, n % 64], tile)
    func = te.create_prim_func([a, w, te.compute((8, 5), lambda i, j: sums[0, i, j])])
    with tvm_target(phone) as target:
        assert LockstepReduction(phone).apply(func, target) is None


def test_a_phones_kernel_is_right_where_items_do_not_run_in_lockstep():
    x = normal(1, 7, 333)
    got = run(lambda v: relax.op.sum(v, axis=[1]), x, target="snapdragon-8-gen-3")
    assert_close(got, x.astype(np.float64).sum(1), 1e-5)
