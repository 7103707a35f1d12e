import dataclasses
import itertools

import on_gpu
import pytest
import tuning_cases as cases
from sketch_families import FAMILIES
from tvm import IRModule, relax
from tvm.s_tir import dlight
from tvm.s_tir import meta_schedule as ms

from schedules.defaults import default_rules
from schedules.limits import limits
from schedules.register_tile import choose_tile
from schedules.search_space import seeds, space_of
from schedules.trials import entry_of, hash_of, plain, scheduled_hash
from schedules.tvm_target import tvm_target


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_its_sketches(family):
    wanted, make, gpu = FAMILIES[family]
    assert set(space_of(plain(make()), limits(gpu)).names) == wanted


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


def test_a_default_is_a_point_of_the_space():
    """What the seed draws has the default's tile: rows, and vectors of lanes."""
    func = plain(cases.product())
    space = space_of(func, cases.LIMIT)
    _, drawn = space.decisions(space.draw(*seeds(func, cases.LIMIT)[0]).trace)
    tile = choose_tile(cases.GPU, 24, 64)
    assert drawn["rows"][-1] == tile.rows
    assert drawn["columns"][-2:] == [tile.vectors, tile.lanes]


@pytest.mark.parametrize("family", ["shared_product", "few_rows", "w4_row", "transpose"])
def test_a_lockstep_default_is_a_point_of_the_space(family):
    """The very kernel that the default rules make is proposed first."""
    _, make, gpu = FAMILIES[family]
    func, limit = plain(make()), limits(gpu)
    with tvm_target(gpu):
        mod = dlight.ApplyDefaultSchedule(*default_rules(gpu))(IRModule({"main": func}))
    default = entry_of(mod).without_attr("tirx.is_scheduled")
    space = space_of(func, limit)
    drawn = (space.draw(*seed) for seed in seeds(space.func, limit) if seed[0] in space.names)
    proposed = [scheduled_hash(sch) for sch in itertools.islice(filter(None, drawn), 8)]
    assert hash_of(plain(default)) in proposed
    if family in ("shared_product", "few_rows", "w4_row"):
        assert proposed[0] == hash_of(plain(default))


def test_rows_are_shared_by_as_many_items_as_by_default():
    _, make, gpu = FAMILIES["shared_sum_of_row"]
    func, limit = plain(make()), limits(gpu)
    with tvm_target(gpu):
        mod = dlight.ApplyDefaultSchedule(*default_rules(gpu))(IRModule({"main": func}))
    first = next(seed for seed in seeds(func, limit) if seed[0] == "shared_rows")
    drawn = space_of(func, limit).draw(*first).mod["main"].script()
    for text in (entry_of(mod).script(), drawn):
        assert 'T.thread_binding(T.int64(256), thread="threadIdx.x")' in text


def test_choices_are_read_back():
    space = space_of(plain(cases.product()), cases.LIMIT)
    choices = {"rows": [3, 2, 1, 4], "columns": [2, 1, 1, 2, 16], "depth": [5, 2, 4]}
    assert space.decisions(space.draw("stretched", choices).trace) == ("stretched", choices)


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


def test_metaschedule_takes_the_space():
    generator = space_of(plain(cases.addition()), cases.LIMIT).generator()
    assert isinstance(generator, ms.space_generator.SpaceGenerator)
