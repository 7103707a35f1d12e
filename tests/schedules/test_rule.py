"""The base class tests the target and turns a refused primitive into a declined answer."""

from __future__ import annotations

import pytest
import tvm
from tvm import s_tir, te

from schedules.rule import Rule


class _Recorder(Rule):
    kind = "opencl"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked = 0

    def schedule(self, func):
        self.asked += 1
        if self.error:
            raise self.error
        return s_tir.Schedule(func)


def test_a_rule_for_one_result_is_not_asked_about_two():
    a = te.placeholder((8, 8), name="a")
    k = te.reduce_axis((0, 8), name="k")
    argmin = te.comm_reducer(
        lambda x, y: (te.if_then_else(x[1] < y[1], x[0], y[0]), te.min(x[1], y[1])),
        lambda t0, t1: (tvm.tirx.const(-1, t0), tvm.te.max_value(t1)),
        name="argmin",
    )
    index = te.compute((8, 8), lambda i, j: tvm.tirx.Cast("int32", j), name="index")
    first, second = te.compute((8,), lambda i: argmin((index[i, k], a[i, k]), axis=k))
    rule = _Recorder()
    assert rule.apply(te.create_prim_func([a, first, second]), tvm.target.Target("opencl")) is None
    assert rule.asked == 0


def _func():
    a = te.placeholder((8,), name="a")
    return te.create_prim_func([a, te.compute((8,), lambda i: a[i] + 1)])


def test_another_target_is_never_asked():
    rule = _Recorder()
    assert rule.apply(_func(), tvm.target.Target({"kind": "llvm"})) is None
    assert rule.asked == 0


def test_a_refused_primitive_declines():
    rule = _Recorder(s_tir.ScheduleError("no"))
    assert rule.apply(_func(), tvm.target.Target({"kind": "opencl"})) is None
    assert rule.asked == 1


def test_our_own_mistakes_are_not_hidden():
    with pytest.raises(AssertionError):
        _Recorder(AssertionError()).apply(_func(), tvm.target.Target({"kind": "opencl"}))
