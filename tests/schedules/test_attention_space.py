"""Other tiles of the attention kernels give the same numbers; their reference is float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import on_gpu
import pytest
import tuning_cases as cases
from attention_cases import attention, expected, inputs
from sketch_families import LOCKSTEP

from hetero_tvm import runtime
from schedules.attention import decode_kernel, prefill_kernel
from schedules.attention_space import Written, typical_past, written_space
from schedules.limits import limits
from schedules.trials import TrialDevice, hash_of, plain, scheduled_hash, trial_module
from schedules.tvm_target import tvm_target
from schedules.verify import Reference, relative_error

_GPUS = {"core": cases.GPU, "lockstep": LOCKSTEP}
_CASES = {
    "prefill": attention(rows=9, softcap=2.0),
    "decode": attention(window=40, value_dim=7),
    "half": attention(rows=5, dtype="float16", head_dim=20),
}


def _kernel(case, gpu):
    return plain((prefill_kernel if case.rows > 1 else decode_kernel)(case, gpu))


def _spread(points):
    """The default, and two of the others."""
    return [points[0], points[len(points) // 2], points[-1]]


@pytest.mark.parametrize("gpu", _GPUS)
@pytest.mark.parametrize(
    "case", ["prefill", "decode", pytest.param("half", marks=pytest.mark.nightly)]
)
def test_tiles_are_right(case, gpu):
    on_gpu.device()
    device, gpu = TrialDevice(None, on_gpu.device(), runtime.sync), _GPUS[gpu]
    func, limit = _kernel(_CASES[case], gpu), limits(gpu)
    space, reference = written_space(func, limit), Reference(func)
    assert len(space.points) >= 3
    for number, point in enumerate(_spread(space.points)):
        sch = space.draw("attention", {name: [size] for name, size in point.items()})
        run = device.load(trial_module(sch), tvm_target(gpu))["main"]
        arrays = reference.draw(number, edge=number == 1)
        given = [device.tensor(array) for array in arrays]
        run(*given)
        runtime.sync()
        for place, want in reference.compute(arrays).items():
            got = given[place].numpy()
            assert relative_error(got, want) < {"float16": 4e-3}.get(str(got.dtype), 1e-5), point


@pytest.mark.parametrize("past", [0, 13, 61])
@pytest.mark.parametrize("case", ["prefill", "half"])
def test_the_reference_is_attention(case, past):
    case = _CASES[case]
    arrays = [np.nan_to_num(array) for array in inputs(case, past)]
    out = np.zeros(case.out_shape, case.dtype)
    (got,) = Reference(_kernel(case, cases.GPU)).compute([*arrays, out]).values()
    np.testing.assert_allclose(got, expected(case, arrays), rtol=1e-9, atol=1e-12)


def test_pieces_of_the_reference_add_up_to_attention():
    case = _CASES["decode"]
    func = _kernel(case, cases.GPU)
    arrays = [np.nan_to_num(array) for array in inputs(case, 57)]
    empty = [np.zeros(shape, "float32") for shape in case.piece_shapes(Written.of(func).pieces)]
    sums, stats = Reference(func).compute([*arrays, *empty]).values()
    weight = np.exp(stats[..., :1] - stats[..., :1].max(2, keepdims=True))
    total = (weight * sums).sum(2) / (weight * stats[..., 1:]).sum(2)
    want = expected(case, arrays)
    np.testing.assert_allclose(total.reshape(want.shape), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gpu", _GPUS)
@pytest.mark.parametrize("case", _CASES)
def test_the_default_is_the_first_point(case, gpu):
    gpu = _GPUS[gpu]
    func = _kernel(_CASES[case], gpu)
    space = written_space(func, limits(gpu))
    first = space.draw("attention", {name: [size] for name, size in space.points[0].items()})
    assert scheduled_hash(first) == hash_of(func.without_attr("tirx.is_scheduled"))


def test_points_keep_to_the_device():
    case = attention(rows=64, head_dim=128, value_dim=128)
    limit = limits(LOCKSTEP)
    every = written_space(_kernel(case, LOCKSTEP), limit).points
    tight = dataclasses.replace(limit, items=32, local_bytes=20 << 10)
    less = written_space(_kernel(case, LOCKSTEP), tight).points[1:]
    assert 0 < len(less) < len(every) - 1
    assert all(point["rows"] * point["columns"] <= 32 for point in less)


def test_what_another_shape_has_is_made_to_fit():
    space = written_space(_kernel(_CASES["prefill"], cases.GPU), cases.LIMIT)
    near = space.nearest({"lanes": [8], "vectors": [1], "keys": [30]})
    assert near == {"lanes": [8], "vectors": [1], "keys": [32]}


def test_it_is_timed_with_half_of_the_room_filled():
    assert typical_past(_kernel(_CASES["prefill"], cases.GPU)) == {3: 30}
    assert typical_past(cases.addition()) == {}
    assert written_space(cases.addition(), cases.LIMIT) is None
