"""Kernels in one launch: which groups they get, when they stay apart, and the same numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm_ffi
from attention_cases import attention
from on_gpu import gpu_spec, module, normal, run_lowered
from tvm import relax, s_tir, te, tirx

from schedules.joined_kernel import Joiner
from schedules.kv_cache import update_kv_kernel

ROWS = 12
_ATTENTION = attention(max_context=64)


def _kernel(shape, place, *, items: int, width: int = 4) -> tirx.PrimFunc:
    """`out[row, n] = 2 * x[place(row, n)] + 1`, in `items` groups of so many rows."""
    x = te.placeholder(shape, name="x")
    out = te.compute(shape, lambda row, n: x(*place(row, n)) * 2.0 + 1.0, name="out")
    sch = s_tir.Schedule(te.create_prim_func([x, out]))
    row, column = sch.get_loops(sch.get_sblock("out"))
    group, _ = sch.split(row, [items, None])
    sch.bind(group, "blockIdx.x")
    sch.vectorize(sch.split(column, [None, width])[1])
    (func,) = sch.mod.functions.values()
    return func.without_attr("global_symbol").with_attr("tirx.is_scheduled", True)


def _same(row, n):
    return row, n


def _other(row, n):
    return ROWS - 1 - row, n


def _joiner(launch_us: float = 3.0, cores: int | None = None) -> Joiner:
    return Joiner(dataclasses.replace(gpu_spec(), launch_us=launch_us, cores=cores))


def _groups(func: tirx.PrimFunc) -> int:
    return int(func.body.block.body.extent)


def _chain(funcs) -> list[tuple[int, int]]:
    """Each reads what the one before it has written."""
    return [(n, n + 1) for n in range(len(funcs))]


def _run(func: tirx.PrimFunc, arrays: list[np.ndarray], results: list[tuple]) -> list[np.ndarray]:
    types = [relax.TensorType(shape, "float32") for shape in results]

    def build(*params):
        builder = relax.BlockBuilder.current()
        callee = builder.add_func(func, "joined")
        return relax.call_tir(callee, list(params), types if len(types) > 1 else types[0])

    given = [(array.shape, str(array.dtype)) for array in arrays]
    return run_lowered(module(build, *given), arrays)


@pytest.mark.parametrize(
    ("items", "places", "groups"),
    [
        pytest.param((12, 12), (_same, _same), 12, id="each_item_its_own"),
        pytest.param((12, 6, 4), (_same, _same, _same), 2, id="as_many_as_divide_all"),
        pytest.param((4, 3), (_same, _same), 1, id="nothing_in_common"),
        pytest.param((12, 12), (_same, _other), 1, id="reads_what_others_write"),
        pytest.param((12, 12), (_other, _same), 12, id="what_is_given_may_be_read_anywhere"),
    ],
)
def test_groups_stay_in_what_they_wrote_themselves(items, places, groups):
    shape = (ROWS, 8)
    funcs = [_kernel(shape, place, items=n) for n, place in zip(items, places, strict=True)]
    joined = _joiner().join(funcs, _chain(funcs), len(funcs) + 1, 1)
    assert _groups(joined) == groups
    x = want = normal(1, *shape)
    results = _run(joined, [x], [shape] * len(funcs))
    for place, result in zip(places, results, strict=True):
        want = (want[::-1] if place is _other else want) * 2 + 1
        assert np.array_equal(result, want)


def test_what_is_overwritten_has_been_read_by_its_own_group():
    """The second one writes over what the first one reads: from elsewhere, in one group alone."""
    shape = (ROWS, 8)
    over = [(0, 1), (2, 0)]  # the second's result is the first's operand
    for place, groups in ((_same, ROWS), (_other, 1)):
        funcs = [_kernel(shape, place, items=ROWS), _kernel(shape, _same, items=ROWS)]
        assert _groups(_joiner().join(funcs, over, 3, 2)) == groups


def test_it_pays_by_what_a_launch_takes():
    """Reads across groups leave one group: little work goes there, much does not."""
    for rows, least_us in ((12, 0.0), (1200, 12.0)):
        funcs = [
            _kernel((rows, 8), _same, items=rows),
            _kernel((rows, 8), lambda row, n, last=rows - 1: (last - row, n), items=rows),
        ]
        assert _joiner(least_us).join(funcs, _chain(funcs), 3, 1) is not None
        if least_us:
            assert _joiner(least_us / 5).join(funcs, _chain(funcs), 3, 1) is None


@pytest.mark.parametrize(
    ("cores", "groups"),
    [
        pytest.param(1, 1, id="one_core_one_group"),
        pytest.param(2, 2, id="as_many_groups_as_cores"),
        pytest.param(8, 6, id="or_as_many_as_divide_the_work"),
    ],
)
def test_groups_compute_little_things_for_themselves(cores, groups):
    """The second one reads all of what the first one writes, and is much longer."""
    funcs = [
        _kernel((ROWS, 4), _same, items=1),
        _kernel((ROWS, 4), _other, items=6),
        _kernel((ROWS, 4), _same, items=6),
    ]
    joined = _joiner(cores=cores).join(funcs, _chain(funcs), 4, 1)
    assert _groups(joined) == groups
    x = normal(1, ROWS, 4)
    first, second, third = _run(joined, [x], [(ROWS, 4)] * 3)
    assert np.array_equal(first, x * 2 + 1)  # everyone's results stay results
    assert np.array_equal(second, first[::-1] * 2 + 1)
    assert np.array_equal(third, second * 2 + 1)


def test_nothing_is_computed_again_where_that_gains_nothing():
    """One group does everything, on memory that others see."""
    funcs = [_kernel((ROWS, 4), _same, items=1), _kernel((ROWS, 4), _other, items=6)]
    joined = _joiner(cores=1).join(funcs, _chain(funcs), 3, 1)
    assert _groups(joined) == 1
    assert "own_" not in joined.script()


def test_what_is_long_is_not_computed_again():
    """Nor joined at all: one group would leave a core with nothing to do."""
    rows = 3000
    funcs = [
        _kernel((rows, 8), _same, items=rows),
        _kernel((rows, 8), lambda row, n: (rows - 1 - row, n), items=rows),
    ]
    assert _joiner(cores=2).join(funcs, _chain(funcs), 3, 1) is None
    assert _joiner(cores=1).join(funcs, _chain(funcs), 3, 1) is not None


@pytest.mark.parametrize(
    ("over", "given"),
    [
        pytest.param([(0, 1), (1, 0)], 1, id="its_operand_is_written_over"),
        pytest.param([(0, 1), (1, 2)], 3, id="its_result_held_something_before"),
    ],
)
def test_nothing_is_computed_again_where_others_would_see_it(over, given):
    """Only one group may do it then."""
    funcs = [_kernel((ROWS, 4), _same, items=1), _kernel((ROWS, 4), _other, items=6)]
    joined = _joiner(cores=2).join(funcs, over, 1 + max(max(own) for own in over), given)
    assert joined is None or _groups(joined) == 1


def test_one_function_may_be_there_twice_and_write_in_place():
    held, new = [1, 3, 8, 16], [1, 3, 1, 16]
    func = update_kv_kernel(held, new, "float32", gpu_spec())
    joined = _joiner().join([func, func], [(0, 2, 4), (1, 3, 4)], 5, 5)

    def build(*params):
        builder = relax.BlockBuilder.current()
        callee = builder.add_func(joined, "joined")
        both = [param.ty for param in params[:2]]
        # The caches are inputs; what is written there, the results show.
        return relax.op.call_tir_inplace(callee, list(params), [0, 1], both)

    arrays = [normal(n, *shape) for n, shape in enumerate((held, held, new, new))]
    past = np.array([5], np.int32)
    given = [(array.shape, str(array.dtype)) for array in [*arrays, past]]
    results = run_lowered(module(build, *given), [*(a.copy() for a in arrays), past])
    for cache, rows, result in zip(arrays[:2], arrays[2:], results, strict=True):
        want = cache.copy()
        want[:, :, 5] = rows[:, :, 0]
        assert np.array_equal(result, want)


def _unlooked() -> dict[str, tirx.PrimFunc]:
    from schedules.attention import decode_kernel

    plain = te.placeholder((4, 8), name="x")
    out = te.compute((4, 8), lambda row, n: plain[row, n] + 1.0, name="out")
    host = te.create_prim_func([plain, out]).without_attr("global_symbol")
    shared = s_tir.Schedule(_kernel((4, 8), _same, items=4).with_attr("global_symbol", "main"))
    copy = shared.cache_read(shared.get_sblock("out"), 0, "shared")
    shared.compute_at(copy, shared.get_loops(shared.get_sblock("out"))[0])
    return {
        "by_how_much_is_known_at_run_time": decode_kernel(_ATTENTION, gpu_spec()),
        "without_a_launch": host,
        "with_memory_of_a_group": shared.mod["main"].without_attr("global_symbol"),
    }


@pytest.mark.parametrize(
    "name",
    ["by_how_much_is_known_at_run_time", "without_a_launch", "with_memory_of_a_group"],
)
def test_what_cannot_be_looked_through_stays_apart(name):
    other = _unlooked()[name]
    places, count = [tuple(range(len(other.params)))], len(other.params)
    known = _kernel((4, 8), _same, items=4)
    joiner = _joiner(1e3)
    both = [*places, (count, count + 1)]
    assert joiner.join([other, known], both, count + 2, count + 1) is None
    assert joiner.join([known, known], [(0, 1), (1, 2)], 3, 1) is not None


def test_what_one_of_them_knows_of_memory_holds_for_all():
    plain = _kernel((ROWS, 8), _same, items=ROWS)
    x, out = plain.params
    aligned = tirx.decl_buffer(x.shape, x.dtype, x.name, data_alignment=128)
    knows = tvm_ffi.structural_map(plain, [(tirx.Var, lambda v: aligned if v.same_as(x) else v)])
    joined = _joiner().join([plain, knows], [(0, 1), (0, 2)], 3, 1)
    assert [int(param.data_alignment) for param in joined.params] == [
        128,
        *[int(out.data_alignment)] * 2,
    ]
