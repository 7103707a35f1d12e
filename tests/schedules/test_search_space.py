import dataclasses

import on_gpu
import pytest
import tuning_cases as cases
from tvm import relax, s_tir
from tvm.s_tir import meta_schedule as ms

from hetero_tvm import runtime
from schedules.register_tile import choose_tile
from schedules.search_space import (
    Choices,
    Limits,
    apply_sketch,
    fits,
    fitted,
    limits,
    seeds,
    space_of,
)
from schedules.trials import TrialDevice, plain, trial_module
from schedules.verify import Reference, relative_error

FAMILIES = {
    "product": ({"whole", "stretched"}, lambda: [cases.product()]),
    "softmax": (
        {"rows"},
        lambda: cases.unscheduled(lambda x: relax.op.nn.softmax(x), ((6, 37), "float32")),
    ),
    "column_sum": (
        {"columns"},
        lambda: cases.unscheduled(lambda x: relax.op.sum(x, 0), ((9, 48), "float32")),
    ),
    "addition": ({"flat", "kept"}, lambda: [cases.addition()]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_its_sketches(family):
    wanted, make = FAMILIES[family]
    for func in make():
        assert set(space_of(plain(func), cases.LIMIT).names) == wanted


@pytest.mark.parametrize(
    ("build", "dtype"),
    [
        pytest.param(lambda x: relax.op.add(x, x), "int8", id="bytes"),
        pytest.param(lambda x: relax.op.argmax(x, 1), "float32", id="index_and_value"),
    ],
)
def test_what_only_default_rules_get_right_has_no_space(build, dtype):
    for func in cases.unscheduled(build, ((9, 48), dtype)):
        assert space_of(plain(func), cases.LIMIT) is None


def test_searched_kernels_are_prepared_as_default_ones_are():
    (func,) = cases.unscheduled(lambda x: relax.op.max(x, 0), ((9, 48), "float32"))
    assert "-inf" in space_of(plain(func), cases.LIMIT).func.script()


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


def test_a_default_is_a_point_of_the_space():
    """What the seed draws has the default's tile: rows, and vectors of lanes."""
    func = plain(cases.product())
    space = space_of(func, cases.LIMIT)
    _, drawn = space.decisions(space.draw(*seeds(func, cases.LIMIT)[0]).trace)
    tile = choose_tile(cases.GPU, 24, 64)
    assert drawn["rows"][-1] == tile.rows
    assert drawn["columns"][-2:] == [tile.vectors, tile.lanes]


def test_choices_are_read_back():
    space = space_of(plain(cases.product()), cases.LIMIT)
    choices = {"rows": [3, 2, 1, 4], "columns": [2, 1, 1, 2, 16], "depth": [5, 2, 4]}
    assert space.decisions(space.draw("stretched", choices).trace) == ("stretched", choices)


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


def test_what_a_device_cannot_take_is_dropped():
    space = space_of(plain(cases.product()), cases.LIMIT)
    wide = {"rows": [1, 24, 1, 1], "columns": [1, 4, 1, 1, 16], "depth": [1, 40, 1]}
    assert space.draw("whole", wide) is not None
    narrow = dataclasses.replace(cases.LIMIT, items=64)
    assert space_of(plain(cases.product()), narrow).draw("whole", wide) is None
    tiny = dataclasses.replace(cases.LIMIT, private_bytes=32)
    assert space_of(plain(cases.product()), tiny).draw("whole", wide) is None


def test_lockstep_devices_have_local_memory_and_cores_do_not():
    gpu = on_gpu.gpu_spec("snapdragon-8-gen-3")
    weight = on_gpu.normal(0, 64, 64)
    (func,) = cases.unscheduled(
        lambda x: relax.op.matmul(x, relax.const(weight)), ((64, 64), "float32"), gpu=gpu
    )
    space = space_of(plain(func), limits(gpu))
    assert "local" in space.names
    choices = {"rows": [1, 8, 1, 8], "columns": [1, 16, 1, 1, 4], "depth": [4, 4, 4]}
    sch = space.draw("local", choices)
    assert "shared" in sch.mod.script()
    less = dataclasses.replace(limits(gpu), local_bytes=64 * 16 * 4 - 1)
    assert space_of(plain(func), less).draw("local", choices) is None


def test_limits_are_the_specs():
    assert limits(on_gpu.gpu_spec()) == Limits(
        items=256, local_bytes=32768, private_bytes=128 << 10, lanes=16, is_core=True
    )
    wide = limits(on_gpu.gpu_spec("snapdragon-8-gen-3"))
    assert (
        not wide.is_core and wide.items == on_gpu.gpu_spec("snapdragon-8-gen-3").max_work_group_size
    )


def test_metaschedule_takes_the_space():
    generator = space_of(plain(cases.addition()), cases.LIMIT).generator()
    assert isinstance(generator, ms.space_generator.SpaceGenerator)
