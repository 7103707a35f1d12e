import on_gpu
import pytest
import tuning_cases as cases
from sketch_families import FAMILIES
from tvm import s_tir

from hetero_tvm import runtime
from schedules.limits import fits
from schedules.search_space import space_of
from schedules.sketches import Choices, apply_sketch, fitted
from schedules.trials import TrialDevice, plain, trial_module
from schedules.verify import Reference, relative_error


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_are_right(family):
    """Random points of every sketch, run on the device, against LLVM."""
    on_gpu.device()
    device = TrialDevice(None, on_gpu.device(), runtime.sync)
    for func in FAMILIES[family][1]():
        space = space_of(plain(func), cases.LIMIT)
        reference = Reference(plain(func))
        arrays = reference.draw(3, edge=False)
        wanted = reference.compute(arrays)
        tried = 0
        for name in space.names:
            for seed in range(8):
                sch = _sample(space, name, seed)
                if not fits(sch, cases.LIMIT):
                    continue
                given = [device.tensor(array) for array in arrays]
                device.load(trial_module(sch), cases.TARGET)["main"](*given)
                runtime.sync()
                for place, want in wanted.items():
                    assert relative_error(given[place].numpy(), want) < 1e-4, sch.trace
                tried += 1
        assert tried >= 3


def _sample(space, name, seed):
    sch = s_tir.Schedule(space.func, seed=seed + 1)
    apply_sketch(name, sch, Choices(), space.limit)
    return sch


@pytest.mark.parametrize(
    ("factors", "size", "parts", "want"),
    [
        pytest.param([2, 8], 16, 2, [2, 8], id="fits"),
        pytest.param([1, 8], 12, 2, [2, 6], id="largest_divisor_below"),
        pytest.param([9, 9, 9, 9], 8, 2, [1, 8], id="more_parts_than_wanted"),
        pytest.param([4], 6, 3, [2, 1, 3], id="fewer_parts_than_wanted"),
    ],
)
def test_choices_of_other_shapes_are_made_to_fit(factors, size, parts, want):
    assert fitted(factors, size, parts, 16) == want
