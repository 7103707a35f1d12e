import math

import pytest
import tuning_cases as cases
from attention_cases import attention
from sketch_families import FAMILIES

from schedules import kernel_search
from schedules.attention import prefill_kernel
from schedules.attention_space import written_space
from schedules.kernel_search import KernelSearch
from schedules.limits import limits
from schedules.trials import plain
from schedules.tuning_records import Choice
from schedules.tvm_target import tvm_target

pytest.importorskip("xgboost")


@pytest.fixture(autouse=True)
def small_populations(monkeypatch):
    """What is tested does not depend on how much the search thinks."""
    monkeypatch.setattr(kernel_search, "_POPULATION", 10)
    monkeypatch.setattr(kernel_search, "_FRESH", 8)
    monkeypatch.setattr(kernel_search, "_GENERATIONS", 1)


def _search(seed=1, **more):
    return KernelSearch(cases.product(), cases.LIMIT, cases.TARGET, batch=8, seed=seed, **more)


def _walk(search, batches, pool):
    """Choices in the order of their proposal; times by the fake pool."""
    order = []
    for _ in range(batches):
        proposed = search.propose()
        order += [candidate.choice for candidate in proposed]
        search.learn([(c, pool.seconds(c.mod)) for c in proposed])
    return order


@pytest.fixture(scope="module")
def pool():
    return cases.FakePool(cases.product())


def test_the_default_comes_first_then_neighbours():
    near = Choice.of(
        "whole", {"rows": [2, 2, 1, 3], "columns": [1, 1, 1, 4, 16], "depth": [1, 8, 5]}
    )
    first = _search(neighbours=[near]).propose()
    assert first[0].choice.sketch == "stretched"
    sketches = [c.choice for c in first]
    # The neighbour's tile, made to fit 24 rows.
    assert any(c.sketch == "whole" and dict(c.decisions)["rows"] == (4, 2, 1, 3) for c in sketches)


def test_the_same_seed_and_times_give_the_same_search(pool):
    first, again, other = (_walk(_search(seed), 2, pool) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_nothing_is_proposed_twice(pool):
    order = _walk(_search(), 3, pool)
    assert len(order) == len(set(order)) >= 12


def test_what_is_known_is_not_proposed(pool):
    known = _walk(_search(), 2, pool)
    search = _search()
    search.know([(choice, 1e-3) for choice in known[:-1]] + [(known[-1], math.inf)])
    assert not set(_walk(search, 2, pool)) & set(known)


def test_picked_sizes_are_searched_too():
    """Rows across a group: sizes that TVM's mutator does not know are drawn anew."""
    _, make, gpu = FAMILIES["shared_sum_of_row"]
    search = KernelSearch(make(), limits(gpu), tvm_target(gpu), batch=8, seed=1)
    choices = []
    for _ in range(3):
        proposed = search.propose()
        choices += [candidate.choice.as_dict for candidate in proposed]
        search.learn([(candidate, 1e-3) for candidate in proposed])
    for name in ("rows", "items", "unroll"):
        assert len({tuple(choice[name]) for choice in choices}) >= 2


def test_the_tiles_of_a_kernel_that_is_written_by_hand():
    """A neighbour's first, each point once, in an order that the seed decides; not the default.

    What differs from the default in one size comes before what differs in several.
    """
    func = prefill_kernel(attention(rows=9), cases.GPU)
    near = Choice.of("attention", {"lanes": [8], "vectors": [1], "keys": [60]})

    def walk(seed, known=()):
        search = KernelSearch(
            func, cases.LIMIT, cases.TARGET, batch=8, seed=seed, neighbours=[near]
        )
        search.know([(choice, 1e-3) for choice in known])
        seen = []
        while batch := search.propose():
            search.learn([(candidate, 1e-3) for candidate in batch])
            seen += [candidate.choice for candidate in batch]
        return seen

    first, again, other = walk(1), walk(1), walk(2)
    assert first == again and sorted(map(str, first)) == sorted(map(str, other)) != first
    assert first[0] == other[0]
    assert first[0].as_dict == {"lanes": [8], "vectors": [1], "keys": [64]}
    points = written_space(plain(func), cases.LIMIT).points
    assert len(first) == len(set(first)) == len(points) - 1 >= 8
    default = Choice.of("attention", {name: [size] for name, size in points[0].items()})
    changed = [choice.differences(default) for choice in first[1:]]
    assert changed == sorted(changed) and {1, 2} <= set(changed)
    assert points[0] not in [{n: size for n, (size,) in c.as_dict.items()} for c in first]
    assert walk(1, first[:-2]) == first[-2:]


def test_a_small_space_ends():
    (func,) = cases.unscheduled(lambda x: _softmax(x), ((3, 7), "float32"))
    search = KernelSearch(func, cases.LIMIT, cases.TARGET, batch=8, seed=1)
    seen = []
    while batch := search.propose():
        seen += batch
        search.learn([(candidate, 1e-3) for candidate in batch])
        assert len(seen) < 10
    assert len(seen) == 2  # one row, or three, in a group


def _softmax(x):
    from tvm import relax

    return relax.op.nn.softmax(x)
