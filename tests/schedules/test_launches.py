import numpy as np
import pytest
import tuning_cases as cases
import tvm
from tvm import relax, tirx
from tvm.s_tir import dlight
from tvm.script import tirx as T

from schedules.launches import NoLaunch, launches_of
from schedules.trials import plain


def test_one_kernel():
    func = cases.product()
    found = launches_of(cases.job(func).default, cases.TARGET)
    (step,) = found.steps
    assert f"void {step.kernel}(" in found.source and found.scratch == ()
    # In the order of the kernel's own parameters, which TVM sorts by name.
    head = found.source.split(f"void {step.kernel}(")[1].split(")")[0]
    names = [word.split()[-1].removesuffix("_ptr") for word in head.split(",")]
    assert [func.params[place].name for place in step.arguments] == names
    assert np.prod(step.items) <= cases.LIMIT.items


def test_several_kernels_and_what_lies_between_them():
    (func,) = cases.unscheduled(lambda x: relax.op.nn.softmax(x), ((32, 64), "float32"))
    with cases.TARGET:
        mod = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())(
            tvm.IRModule({"main": plain(func)})
        )
    found = launches_of(mod, cases.TARGET)
    assert len(found.steps) > 2 and 32 * 16 * 4 in found.scratch  # sixteen sums of each row
    made = {len(func.params) + n for n in range(len(found.scratch))}
    used = {place for step in found.steps for place in step.arguments}
    assert made <= used and 0 in used and 1 in used


def test_sizes_that_are_computed():
    @T.prim_func(s_tir=True)
    def main(x: T.handle, n: T.int32, y: T.handle):
        a = T.match_buffer(x, (n,), "float32")
        b = T.match_buffer(y, (n,), "float32")
        for i in T.thread_binding(n, "blockIdx.x"):
            with T.sblock("copy"):
                v = T.axis.spatial(n, i)
                b[v] = a[v]

    assert isinstance(main, tirx.PrimFunc)
    with pytest.raises(NoLaunch):
        launches_of(tvm.IRModule({"main": main}), cases.TARGET)
