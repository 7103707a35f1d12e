"""One run as lanes, recorded and simulated."""

import pytest

from hetero_tvm.lanes import LANES, is_lanes, recorded_lanes, simulated_lanes
from hetero_tvm.profile_summary import Run
from hetero_tvm.recording import GPU_THREAD, Event
from hetero_tvm.simulator import Machine, Wait, Work, simulate
from relay_passes.calls import Call


def call(symbol, device, *operators):
    return Call(symbol=symbol, device=device, operators=operators, results=(), macs=1, bytes=1)


EMPTY: dict[str, list] = {lane: [] for lane in LANES}
CALLS = {
    "main": (
        call("npu_region_0", "npu", "a_npu"),
        call("product", "gpu", "a_gpu", "b"),
        call("sort", "cpu", "c"),
    )
}


def run(length_us, start=1_000_000):
    """Of `length_us`; a region beside a kernel, a copy, a wait, and work of the CPU."""

    def event(kind, name, begin, end, number=None, thread=0, detail=0):
        at = start + begin * 1000, start + end * 1000
        return Event(kind, thread, name, *at, number, detail)

    events = (
        event("function", "main", 0, length_us),
        event("call", "npu_region_0", 0, 2, 7),
        event("submit", "npu_region_0", 1, 2, 7),
        event("region", "npu_region_0", 3, 40, 7, thread=1),
        event("call", "product", 4, 6, 8),
        event("submit", "product_kernel", 5, 6, 8),
        event("kernel", "product_kernel", 7, 30, 8, thread=GPU_THREAD),
        event("wait", "", 30, 40, detail=2),  # the CPU for the NPU
        event("copy", "to the host", 41, 42, detail=64),
        event("call", "sort", 50, 60, 9),
    )
    return Run(start, start + length_us * 1000, events, ("main",))


def test_a_recorded_run():
    found = recorded_lanes([run(90), run(70), run(80)], CALLS, "measured")
    assert is_lanes(found) and tuple(found["lanes"]) == LANES
    assert (found["us"], found["provenance"]) == (80.0, "measured")  # the median one
    lanes = found["lanes"]
    assert lanes["npu"] == [(3.0, 40.0, "npu_region_0", "a_npu", 0)]
    assert lanes["gpu"] == [(7.0, 30.0, "product_kernel", "b", 1)]
    assert lanes["copies"] == [(41.0, 42.0, "to the host", None, None)]
    assert lanes["waits"] == [(30.0, 40.0, "CPU waits for NPU", None, None)]
    # what the host submits, and what it computes itself
    assert lanes["cpu"] == [
        (1.0, 2.0, "submit npu_region_0", "a_npu", 0),
        (5.0, 6.0, "submit product_kernel", "b", 1),
        (50.0, 60.0, "sort", "c", 2),
    ]


def test_a_simulated_run():
    machine = Machine(
        two_devices_gbps=10.0,
        launch_us=1.0,
        drained_us=0.0,
        region_us=2.0,
        seen_us={"cpu": 0.0, "gpu": 0.0, "npu": 0.0},
    )
    steps = [
        Work(name="a", device="npu", us=10.0, opens_region=True),
        Work(name="b", device="gpu", us=4.0),
        Wait("npu"),
        Work(name="c", device="gpu", us=5.0),
        Wait("gpu"),
    ]
    found = simulated_lanes(simulate(steps, machine))
    assert is_lanes(found) and found["provenance"] == "simulated"
    lanes = found["lanes"]
    assert lanes["npu"] == [(0.0, 2.0, "submit region", None, None), (2.0, 12.0, "a", "a", None)]
    assert [entry[3] for entry in lanes["gpu"]] == ["b", "c"]
    assert lanes["waits"][0][2] == "CPU waits for NPU"
    assert [entry[2] for entry in lanes["cpu"]] == ["submit b", "submit c"]
    assert found["us"] == pytest.approx(lanes["gpu"][-1][1])


@pytest.mark.parametrize(
    "broken",
    [
        None,
        {},
        {"us": "long", "provenance": "measured", "lanes": EMPTY},
        {"us": 1.0, "provenance": "measured", "lanes": {"cpu": []}},
        {"us": 1.0, "provenance": "measured", "lanes": {**EMPTY, "gpu": [[1]]}},
        {
            "us": 1.0,
            "provenance": "measured",
            "lanes": {**EMPTY, "gpu": [[0, 1, 2, None, None]]},
        },
    ],
)
def test_what_is_none(broken):
    assert not is_lanes(broken)
