import on_gpu
import pytest
from sketch_families import FAMILIES
from tvm import s_tir

from hetero_tvm import runtime
from schedules.choices import Choices
from schedules.limits import fits, limits
from schedules.search_space import space_of
from schedules.sketches import apply_sketch
from schedules.trials import TrialDevice, plain, trial_module
from schedules.tvm_target import tvm_target
from schedules.verify import Reference, relative_error

# Seconds each; `few_rows` and `shared_rms_norm` have their sketches.
_LONG = ("shared_product", "w4_row", "w4_product", "shared_softmax", "shared_layer_norm")


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=pytest.mark.nightly) if f in _LONG else f for f in FAMILIES],
)
def test_samples_are_right(family):
    """Random points of every sketch, run on the device, against LLVM."""
    on_gpu.device()
    device = TrialDevice(None, on_gpu.device(), runtime.sync)
    _, make, gpu = FAMILIES[family]
    func, limit = plain(make()), limits(gpu)
    space, reference = space_of(func, limit), Reference(func)
    arrays = reference.draw(3, edge=False)
    wanted = reference.compute(arrays)
    for name in space.names:
        drawn = (_sample(space, name, seed) for seed in range(8))
        fitting = [sch for sch in drawn if fits(sch, limit)]
        assert fitting, name
        for sch in fitting[:2]:
            given = [device.tensor(array) for array in arrays]
            device.load(trial_module(sch), tvm_target(gpu))["main"](*given)
            runtime.sync()
            for place, want in wanted.items():
                assert relative_error(given[place].numpy(), want) < 1e-4, sch.trace


def _sample(space, name, seed):
    sch = s_tir.Schedule(space.func, seed=seed + 1)
    apply_sketch(name, sch, Choices(), space.limit)
    return sch
