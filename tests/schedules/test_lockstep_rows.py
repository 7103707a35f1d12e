"""Rows that the items of a group share: which functions are such; sizes need not divide."""

from __future__ import annotations

import functools

import numpy as np
import on_gpu
import pytest
import tuning_cases as cases
from sketch_families import LOCKSTEP
from tvm import relax, s_tir

from hetero_tvm import runtime
from schedules.choices import Choices
from schedules.limits import fits, limits
from schedules.rule import prepared
from schedules.search_space import space_of
from schedules.sketches import apply_sketch
from schedules.trials import TrialDevice, plain, trial_module
from schedules.tvm_target import tvm_target
from schedules.verify import Reference, relative_error

_LIMIT = limits(LOCKSTEP)


@functools.cache
def _func(build, *shapes):
    types = [(shape, "float32") for shape in shapes]
    (func,) = cases.unscheduled(build, *types, gpu=LOCKSTEP)
    return plain(func)


def _softmax(x):
    return relax.op.nn.softmax(x)


def _maximum(x):
    return relax.op.max(x, [-1])


def _rms_norm(x, gamma):
    return relax.op.nn.rms_norm(x, gamma, axes=[-1])


def _drawn(func, name, rows, items, unroll=4):
    sch = s_tir.Schedule(prepared(func, infinities=False))
    apply_sketch(
        name, sch, Choices({"rows": [1, rows], "items": [items], "unroll": [unroll]}), _LIMIT
    )
    return sch


@pytest.mark.parametrize(
    ("build", "shapes", "name", "rows", "items"),
    [
        pytest.param(_softmax, [(2, 3, 37)], "kept_rows", 3, 8, id="rows_of_several_axes"),
        pytest.param(_maximum, [(4, 300)], "shared_rows", 2, 32, id="no_columns"),
        pytest.param(_rms_norm, [(5, 33), (33,)], "kept_rows", 1, 64, id="more_items_than_columns"),
    ],
)
def test_sizes_that_do_not_divide(build, shapes, name, rows, items):
    on_gpu.device()
    func = _func(build, *shapes)
    sch = _drawn(func, name, rows, items)
    assert fits(sch, _LIMIT)
    device, reference = TrialDevice(None, on_gpu.device(), runtime.sync), Reference(func)
    arrays = reference.draw(1, edge=False)
    given = [device.tensor(array) for array in arrays]
    device.load(trial_module(sch), tvm_target(LOCKSTEP))["main"](*given)
    runtime.sync()
    for place, want in reference.compute(arrays).items():
        assert relative_error(given[place].numpy(), want) < 1e-5


def test_a_row_of_minus_infinity_has_that_maximum():
    """Groups add up from the finite extremes; what comes out is what a core gives."""
    on_gpu.device()
    device = TrialDevice(None, on_gpu.device(), runtime.sync)
    x = on_gpu.normal(1, 4, 300)
    x[2] = -np.inf
    given = [device.tensor(x), device.tensor(np.zeros(4, "float32"))]
    module = trial_module(_drawn(_func(_maximum, (4, 300)), "shared_rows", 1, 64))
    device.load(module, tvm_target(LOCKSTEP))["main"](*given)
    runtime.sync()
    np.testing.assert_array_equal(given[1].numpy(), x.max(1))


def test_what_is_kept_must_fit_local_memory():
    func = _func(_softmax, (2, 9000))
    space = space_of(func, _LIMIT)
    choices = {"rows": [2, 1], "items": [64], "unroll": [1]}
    assert space.draw("shared_rows", choices) is not None
    assert space.draw("kept_rows", choices) is None  # 36000 of 32768 bytes


def test_results_of_reductions_are_each_items_own():
    """In local memory they would be read before they are there, if several rows are a group."""
    text = _drawn(_func(_softmax, (4, 64)), "shared_rows", 2, 8).mod.script()
    assert 'scope="local"' in text and 'scope="shared"' not in text


def test_groups_work_on_the_rows_of_the_last_axis():
    """Two rows of a group must be neighbours of one axis: else it would compute others' too."""
    text = _drawn(_func(_softmax, (2, 3, 37)), "shared_rows", 2, 8).mod.script()
    assert 'T.thread_binding(T.int64(6), thread="blockIdx.x")' in text  # 2 does not divide 3


@pytest.mark.parametrize(
    ("build", "shapes"),
    [
        pytest.param(lambda x: relax.op.max(x, 0), [(90, 48)], id="columns"),
        pytest.param(lambda x: relax.op.add(x, x), [(4, 8)], id="nothing_reduced"),
    ],
)
def test_what_is_not_of_rows_is_refused(build, shapes):
    with pytest.raises(s_tir.ScheduleError):
        _drawn(_func(build, *shapes), "shared_rows", 1, 8)


def test_cores_share_nothing():
    (func,) = cases.unscheduled(_softmax, ((6, 37), "float32"))
    assert set(space_of(plain(func), cases.LIMIT).names) == {"rows"}
