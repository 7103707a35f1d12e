"""Layouts, parts and suspects, on arrays made by hand."""

import numpy as np
import pytest

from hetero_tvm.output_error import FLOAT32
from hetero_tvm.probe import Probe, first_bad, nearest_layout, suspects
from relay_passes.calls import Call, Result
from relay_passes.plan import OpPlan, Plan, Split
from relay_passes.planner.problem import Cut

RNG = np.random.default_rng(7)


class Tensor:
    """What the probe asks of a tensor."""

    def __init__(self, array):
        self.array = array

    def numpy(self):
        return self.array


def op(name, **more):
    common = {"op": "relax.matmul", "device": "gpu", "reason": "", "cost_us": {}, "declined": {}}
    return OpPlan(**{"name": name, "macs": 0, **common, **more})


def call(symbol, *operators, device="gpu", shape=(4, 6)):
    results = (Result(operator=operators[-1], shape=shape),)
    return Call(symbol=symbol, device=device, operators=operators, results=results, macs=0, bytes=0)


def random(*shape):
    return RNG.standard_normal(shape, np.float32)


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 2, 3, 1), (1, 0, 2, 3), (3, 2, 1, 0)])
def test_any_order_of_axes_is_found(axes):
    wanted = random(2, 3, 4, 5)
    found, error = nearest_layout(np.transpose(wanted, axes), wanted, FLOAT32)
    assert error.held and error.relative_error == 0
    assert found == (None if axes == (0, 1, 2, 3) else axes)


def test_orders_of_equal_shape_are_told_apart_by_the_numbers():
    wanted = random(4, 4)
    found, error = nearest_layout(wanted.T.copy(), wanted, FLOAT32)
    assert found == (1, 0) and error.held


def test_a_reshape_is_no_difference_and_another_size_is_unknown():
    wanted = random(2, 3, 4)
    axes, error = nearest_layout(wanted.reshape(6, 4), wanted, FLOAT32)
    assert axes is None and error.held
    assert nearest_layout(random(5), wanted, FLOAT32) is None


def test_wrong_numbers_are_not_explained_away():
    wanted = random(3, 4, 5)
    _, error = nearest_layout(random(5, 4, 3), wanted, FLOAT32)
    assert not error.held and error.relative_error > 0.5


def test_a_mask_hides_nothing():
    wanted = random(4, 6)
    wanted[:, 0] = -3.4e38
    wrong = wanted.copy()
    wrong[0, 1] += 1
    assert not nearest_layout(wrong, wanted, FLOAT32)[1].held
    half = np.where(wanted < -1e30, np.float32(-65504), wanted)
    assert nearest_layout(half, wanted, FLOAT32)[1].held


def probed(calls, ops, arrays, reference, reads, rounding=2.0**-24):
    probe = Probe(
        calls, Plan(ops=tuple(ops), predicted_us=0.0), reference, reads, FLOAT32, rounding
    )
    for one, array in zip(calls, arrays, strict=True):
        for before in (True, False):
            probe(None, "vm.builtin.alloc_tensor", before, None)
            probe(None, one.symbol, before, None, "an input", Tensor(array))
    return probe


def test_the_first_bad_result_of_each_device():
    wanted = {name: random(4, 6) for name in "abcd"}
    arrays = [wanted["a"], wanted["b"] * 1.5, wanted["c"] * 1.5, wanted["d"]]
    calls = [call("k", "a"), call("k", "b"), call("r", "c", device="npu"), call("k", "d")]
    reads = {"b": ("a",), "c": ("b",), "d": ("c",)}
    probe = probed(calls, [op(name) for name in "abcd"], arrays, wanted, reads)
    assert [p.held for p in probe.found] == [True, False, False, True]
    bad = first_bad(probe.found)
    assert {device: p.operator for device, p in bad.items()} == {"gpu": "b", "npu": "c"}
    assert [p.position for p in probe.found] == [0, 1, 2, 3]
    worst, *_ = suspects(probe.found)
    assert worst.operator == "b" and worst.read_error == 0
    assert probe.found[2].gain == pytest.approx(1)  # c only passes on what b did


def test_parts_are_compared_with_parts():
    whole = random(4, 6)
    split = Split(kind="activation", axis=0, at=3, extent=4)
    calls = [
        call("r", "a_npu", device="npu", shape=(3, 6)),
        call("k", "a_gpu", shape=(1, 6)),
    ]
    ops = [op("a", device="gpu+npu", split=split)]
    probe = probed(calls, ops, [whole[:3], whole[3:] + 1], {"a": whole}, {})
    assert [p.held for p in probe.found] == [True, False]
    assert [p.part for p in probe.found] == [
        "elements 0 to 2 of axis 0",
        "elements 3 to 3 of axis 0",
    ]


def test_what_is_early_is_compared_in_its_parts():
    whole = random(4, 6)
    calls = [call("k", "a_early", shape=(3, 6)), call("k", "a_late", shape=(1, 6))]
    probe = probed(
        calls, [op("a", early=Cut(0, 3, 4))], [whole[:3] + 1, whole[3:]], {"a": whole}, {}
    )
    assert [p.held for p in probe.found] == [False, True]
    assert [p.part for p in probe.found] == [
        "elements 0 to 2 of axis 0",
        "elements 3 to 3 of axis 0",
    ]


def test_what_has_no_reference_is_counted():
    calls = [call("k", "inner"), call("k", "a")]
    probe = probed(calls, [op("a"), op("inner")], [random(4, 6)] * 2, {"a": random(4, 7)}, {})
    assert probe.unknown == 2 and probe.found == []


def test_nothing_is_suspected_where_all_held():
    wanted = {"a": random(4, 6)}
    probe = probed([call("k", "a")], [op("a")], [wanted["a"]], wanted, {})
    assert suspects(probe.found) == [] and first_bad(probe.found) == {}
