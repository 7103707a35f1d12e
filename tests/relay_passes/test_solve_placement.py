"""The minimum cut against trying every assignment."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_passes.solve_placement import Op, cheapest, elapsed_us, moves, solve, total_us

GPU, NPU, CPU = ("gpu",), ("npu",), ("cpu",)


def fixed(gpu_npu=10.0, npu_gpu=10.0, rest=0.0):
    costs = {("gpu", "npu"): gpu_npu, ("npu", "gpu"): npu_gpu}
    return lambda source, target, nbytes: costs.get((source, target), rest)


def brute_force(ops, handover):
    places = itertools.product(*(sorted(op.cost_us) for op in ops))
    return min(sum(total_us(ops, place, handover)) for place in places)


@st.composite
def problems(draw):
    """Up to seven operators of random kinds, edges and costs, and random hand-over costs."""
    costs = st.integers(0, 60).map(float)
    ops = []
    for index in range(draw(st.integers(1, 7))):
        able = draw(st.sampled_from([GPU + NPU, GPU + NPU, GPU + NPU, GPU, NPU, CPU]))
        view = draw(st.booleans()) and able == GPU + NPU
        ops.append(
            Op(
                cost_us={device: 0.0 if view else draw(costs) for device in able},
                inputs=tuple(
                    sorted(draw(st.sets(st.integers(0, index - 1), max_size=3))) if index else ()
                ),
                nbytes=draw(st.integers(0, 30)),
                reads_graph_inputs=draw(st.booleans()),
                is_output=draw(st.booleans()),
            )
        )
    pairs = list(itertools.permutations(("cpu", "gpu", "npu"), 2))
    fixed_part = {pair: draw(costs) for pair in pairs}
    per_byte = {pair: draw(st.integers(0, 2)) for pair in pairs}
    return ops, lambda s, t, nbytes: fixed_part[s, t] + per_byte[s, t] * nbytes


@settings(max_examples=400, deadline=None)
@given(problems())
def test_no_assignment_is_cheaper(problem):
    ops, handover = problem
    chosen = solve(ops, handover)
    assert all(place in op.cost_us for place, op in zip(chosen, ops, strict=True))
    # Costs are whole microseconds, the solver's nanoseconds: equal means equal.
    assert sum(total_us(ops, chosen, handover)) == pytest.approx(brute_force(ops, handover))


@settings(max_examples=100, deadline=None)
@given(problems())
def test_never_slower_than_the_better_single_device(problem):
    ops, handover = problem
    best = sum(total_us(ops, solve(ops, handover), handover))
    for device in ("gpu", "npu"):
        alone = [device if device in op.cost_us else next(iter(op.cost_us)) for op in ops]
        assert best <= sum(total_us(ops, alone, handover)) + 1e-9


def test_a_cheap_operator_stays_with_its_neighbours():
    ops = [
        Op(cost_us={"gpu": 50.0, "npu": 1.0}),
        Op(cost_us={"gpu": 1.0, "npu": 15.0}, inputs=(0,)),
        Op(cost_us={"gpu": 50.0, "npu": 1.0}, inputs=(1,)),
    ]
    assert solve(ops, fixed()) == ["npu", "npu", "npu"]
    ops[1] = Op(cost_us={"gpu": 1.0, "npu": 25.0}, inputs=(0,))
    assert solve(ops, fixed()) == ["npu", "gpu", "npu"]


def test_a_tensor_is_paid_once_for_all_its_readers():
    reader = Op(cost_us={"gpu": 9.0, "npu": 1.0}, inputs=(0,))
    ops = [Op(cost_us={"gpu": 1.0}), reader, reader, reader]
    # Three readers gain 24 and cost one hand-over of 10, not three of them.
    assert solve(ops, fixed()) == ["gpu", "npu", "npu", "npu"]
    assert total_us(ops, ["gpu", "npu", "npu", "npu"], fixed()) == (4.0, 10.0)
    assert solve(ops[:2], fixed()) == ["gpu", "gpu"]


def test_the_models_inputs_are_one_tensor():
    reader = Op(cost_us={"gpu": 9.0, "npu": 5.0}, reads_graph_inputs=True)
    start = lambda source, target, _: 10.0 if (source, target) == ("cpu", "npu") else 0.0  # noqa: E731
    assert solve([reader, reader], start) == ["gpu", "gpu"]
    assert solve([reader] * 3, start) == ["npu", "npu", "npu"]


def test_the_cpu_keeps_what_nobody_takes():
    ops = [Op(cost_us={"gpu": 5.0, "npu": 1.0}), Op(cost_us={"cpu": 3.0}, inputs=(0,))]
    leave = lambda source, target, _: {("npu", "cpu"): 9.0}.get((source, target), 0.0)  # noqa: E731
    assert solve(ops, leave) == ["gpu", "cpu"]  # 5 + 3 against 1 + 9 + 3


def test_views_follow():
    view = Op(cost_us={"gpu": 0.0, "npu": 0.0}, inputs=(0,))
    heavy = Op(cost_us={"gpu": 90.0, "npu": 1.0}, inputs=(1,))
    only_gpu = Op(cost_us={"gpu": 1.0}, inputs=(1,))
    for tail, place in ((heavy, "npu"), (only_gpu, "gpu")):
        first = Op(cost_us={"gpu": 90.0, "npu": 1.0} if place == "npu" else {"gpu": 1.0})
        assert solve([first, view, tail], fixed()) == [place] * 3


@given(problems())
@settings(deadline=None, max_examples=200)
def test_the_chosen_plan_is_never_slower_than_one_device_when_waits_are_counted(problem):
    ops, handover = problem
    alone = [
        ["cpu" if "cpu" in op.cost_us else device for op in ops]
        for device in ("gpu", "npu")
        if all(device in op.cost_us or "cpu" in op.cost_us for op in ops)
    ]
    chosen = sum(elapsed_us(ops, cheapest(ops, handover, alone), handover))
    for device in alone:
        assert chosen <= sum(elapsed_us(ops, device, handover)) + 1e-5
    assert chosen <= sum(elapsed_us(ops, solve(ops, handover), handover)) + 1e-5


def test_one_wait_serves_every_tensor_of_a_stage():
    both = {"gpu": 1.0, "npu": 1.0}
    ops = [
        Op(cost_us=both, nbytes=10),
        Op(cost_us=both, nbytes=20),
        Op(cost_us=both, inputs=(0, 1), nbytes=40),
        Op(cost_us=both, inputs=(2,), nbytes=80),
        Op(cost_us=both, inputs=(0, 3), is_output=True),
    ]

    def price(source, target, nbytes):
        return 100.0 + nbytes

    found = moves(ops, ["gpu", "gpu", "npu", "gpu", "npu"], price)
    assert [(move.source, move.target, move.sizes, move.us) for move in found] == [
        ("gpu", "npu", (10, 20), 130.0),  # both before the first region
        ("gpu", "npu", (0, 80), 180.0),  # the first tensor is there already
        ("npu", "gpu", (40,), 140.0),
        ("npu", "cpu", (), 100.0),
    ]


def test_scaled_cuts_find_what_the_full_price_hides():
    """Four tensors over one border: each alone would not pay for a hand-over, one wait does."""
    ops = [Op(cost_us={"gpu": 0.0}, nbytes=1) for _ in range(4)]
    ops += [Op(cost_us={"gpu": 50.0, "npu": 1.0}, inputs=(i,), nbytes=1) for i in range(4)]
    ops += [Op(cost_us={"gpu": 9.0, "npu": 1.0}, inputs=(4, 5, 6, 7), is_output=True)]

    def price(source, target, nbytes):
        return 0.0 if "cpu" in (source, target) else 100.0

    assert solve(ops, price) == ["gpu"] * 9
    assert cheapest(ops, price) == ["gpu"] * 4 + ["npu"] * 5
