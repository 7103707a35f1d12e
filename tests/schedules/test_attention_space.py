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
from schedules.attention import decode_kernel, prefill_kernel, step_kernel
from schedules.attention_space import Written, room, scratch, typical_past, written_space
from schedules.limits import limits
from schedules.trials import (
    TrialDevice,
    hash_of,
    parameters,
    plain,
    scheduled_hash,
    trial_module,
)
from schedules.tvm_target import tvm_target
from schedules.verify import Reference, relative_error

_GPUS = {"core": cases.GPU, "lockstep": LOCKSTEP}
_CASES = {
    "prefill": attention(rows=9, softcap=2.0),
    "step": attention(window=40, value_dim=7),
    "long step": attention(q_heads=6, max_context=500, dtype="float16", softcap=2.0),
    "half": attention(rows=5, dtype="float16", head_dim=20),
}


def _kernel(case, gpu):
    return plain((prefill_kernel if case.rows > 1 else step_kernel)(case, gpu))


def _spread(points):
    """The default, and two of the others."""
    return [points[0], points[len(points) // 2], points[-1]]


@pytest.mark.parametrize("gpu", _GPUS)
@pytest.mark.parametrize(
    "case", ["prefill", "step", "long step", pytest.param("half", marks=pytest.mark.nightly)]
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
@pytest.mark.parametrize("case", ["prefill", "half", "step"])
def test_the_reference_is_attention(case, past):
    case = _CASES[case]
    arrays = [np.nan_to_num(array) for array in inputs(case, past)]
    reference = Reference(_kernel(case, cases.GPU))
    more = [np.zeros(shape, dtype) for shape, dtype in reference.parameters[len(arrays) :]]
    (got,) = reference.compute([*arrays, *more]).values()
    np.testing.assert_allclose(got, expected(case, arrays), rtol=1e-9, atol=1e-12)


def test_pieces_of_the_reference_add_up_to_attention():
    case = _CASES["step"]
    func = plain(decode_kernel(case, cases.GPU))
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


@pytest.mark.parametrize("gpu", _GPUS)
def test_pieces_are_a_choice_of_a_whole_step_only(gpu):
    """Earlier records of the pieces alone still mean the same; another function adds them up."""
    case, gpu = attention(max_context=300), _GPUS[gpu]
    whole = written_space(_kernel(case, gpu), limits(gpu))
    counts = {point["pieces"] for point in whole.points}
    assert counts == {1, 2, 4, 8, whole.points[0]["pieces"]}  # ten have anything to do
    assert max(counts) <= room(case) == 10
    alone = written_space(plain(decode_kernel(case, gpu)), limits(gpu))
    assert len(alone.points) > 1 and all("pieces" not in point for point in alone.points)


def test_the_scratch_of_a_step_is_no_result():
    case = attention(max_context=4000)
    func = _kernel(case, cases.GPU)
    assert Reference(func).outputs == [4] and scratch(func) == (5, 6)
    sums, stats = (shape for shape, _ in parameters(func)[5:])
    assert [sums, stats] == [(1, 4, 64, 16), (1, 4, 64, 2)] and room(case) == 64
    assert scratch(_kernel(_CASES["prefill"], cases.GPU)) == ()


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
