"""The CPU schedules keep the numbers and move the contiguous loop inside."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import te, tirx
from tvm.s_tir import dlight

from schedules.host import host_rules

_LLVM = tvm.target.Target({"kind": "llvm"})


def _matmul(rows: int, columns: int, depth: int) -> tirx.PrimFunc:
    a = te.placeholder((rows, depth), "float32", name="a")
    b = te.placeholder((depth, columns), "float32", name="b")
    k = te.reduce_axis((0, depth), name="k")
    scaled = te.compute((rows, depth), lambda i, j: a[i, j] * 2.0, name="scaled")
    c = te.compute((rows, columns), lambda i, j: te.sum(scaled[i, k] * b[k, j], axis=k), name="c")
    return te.create_prim_func([a, b, c]).with_attr("global_symbol", "main")


def _schedule(func: tirx.PrimFunc) -> tvm.IRModule:
    with _LLVM:
        return dlight.ApplyDefaultSchedule(*host_rules())(tvm.IRModule({"main": func}))


@pytest.mark.parametrize(("rows", "columns", "depth"), [(1, 1, 1), (7, 65, 13), (64, 200, 96)])
def test_matmul_keeps_its_numbers(rows, columns, depth):
    rng = np.random.default_rng(rows)
    a = rng.standard_normal((rows, depth)).astype("float32")
    b = rng.standard_normal((depth, columns)).astype("float32")
    out = tvm.runtime.tensor(np.zeros((rows, columns), "float32"))
    library = tvm.compile(_schedule(_matmul(rows, columns, depth)), target=_LLVM)
    library["main"](tvm.runtime.tensor(a), tvm.runtime.tensor(b), out)
    # float32 sums of `depth` products: eps * depth bounds the difference in order.
    np.testing.assert_allclose(out.numpy(), 2 * a @ b, rtol=1e-5, atol=1e-6 * depth)


def test_every_function_is_marked_scheduled_and_the_producer_is_inlined():
    func = _schedule(_matmul(64, 200, 96))["main"]
    assert func.attrs["tirx.is_scheduled"] == 1
    assert "scaled" not in func.script(show_meta=False).replace("scaled[", "")


def test_large_work_runs_in_parallel_and_small_work_does_not():
    assert "T.parallel" in _schedule(_matmul(128, 128, 128))["main"].script()
    assert "T.parallel" not in _schedule(_matmul(8, 8, 8))["main"].script()
