"""Times, shares, overlap and idle causes, on events made by hand and on recorded ones."""

import dataclasses

import pytest
from recorded_model import recorded

from hetero_tvm.errors import BadInput
from hetero_tvm.profile_summary import Run, runs_of, summarise
from hetero_tvm.recording import Event
from relay_passes.calls import Call, Result
from relay_passes.plan import OpPlan, Plan, Split
from relay_passes.planner.problem import Cut
from target_specs.loader import load_spec

SPEC = load_spec("host")
WAIT = {("cpu", "npu"): 2, ("npu", "gpu"): 9, ("cpu", "gpu"): 1, ("gpu", "npu"): 6}


def _op(name, op="relax.matmul", **more):
    common = {"device": "gpu", "reason": "", "cost_us": {"gpu": 1.0, "npu": 1.0}, "declined": {}}
    return OpPlan(**{"name": name, "op": op, "macs": 0, **common, **more})


def _call(symbol, device, operators, macs=0, nbytes=0):
    results = (Result(operator=operators[-1], shape=(1,)),)
    return Call(
        symbol=symbol, device=device, operators=operators, results=results, macs=macs, bytes=nbytes
    )


def _event(kind, name, start_us, end_us, call=None, detail=0, thread=0):
    return Event(kind, thread, name, start_us * 1000, end_us * 1000, call, detail)


# A run of 100 µs. GPU: a 10-30, c 60-90; NPU: b 20-60.
CALLS = {
    "main": (
        _call("a", "gpu", ("x_gpu", "y"), macs=1000, nbytes=2000),
        _call("b", "npu", ("x_npu",), macs=3000),
        _call("c", "gpu", ("z",)),
    )
}
PLAN = Plan(
    ops=(
        _op(
            "x",
            device="gpu+npu",
            macs=4000,
            split=Split(kind="activation", axis=0, at=3, extent=4),
            split_us={"gpu": 3.0, "npu": 5.0},
        ),
        _op("y", "relax.add", cost_us={"gpu": 1.0}),
        _op("z", "relax.nn.softmax"),
    ),
    predicted_us=1.0,
)
EVENTS = (
    _event("function", "main", 1, 95),
    _event("call", "a", 2, 5, 7),
    _event("submit", "a_kernel", 3, 4, 7),
    _event("call", "b", 6, 9, 8),
    _event("submit", "b", 7, 8, 8),
    _event("wait", "wait", 8, 20, 8, WAIT["npu", "gpu"], thread=1),
    _event("kernel", "a_kernel", 10, 30, 7, thread=-1),
    _event("region", "b", 20, 60, 8, thread=1),
    _event("wait", "wait", 12, 50, None, WAIT["gpu", "npu"]),
    _event("call", "c", 52, 57, 9),
    _event("submit", "c_kernel", 53, 55, 9),
    _event("kernel", "c_kernel", 60, 90, 9, thread=-1),
    _event("copy", "copy", 91, 92, None, 64),
)
RUN = Run(0, 100_000, EVENTS, ("main",))


def _summary(run=RUN, spec=SPEC):
    return summarise([run], CALLS, PLAN, spec, "float32")


def test_busy_and_overlap():
    found = _summary()
    assert found.run_us == 100
    assert found.busy_us == {"cpu": 0, "gpu": 50, "npu": 40}
    assert found.overlap_us == 10
    assert found.copied_bytes == 64
    assert found.waits_us == {"npu for gpu": 12, "gpu for npu": 38}


def test_idle_causes_are_disjoint_and_complete():
    idle = _summary().idle_us
    assert idle["gpu"] == {
        "given work, not started yet": 6 + 5,  # a 4-10, c 55-60
        "waits for the NPU": 20,  # 30-50
        "the host has given it nothing": 4 + 5,  # 0-4, 50-55
        "done with its part": 10,
    }
    assert idle["npu"] == {
        "waits for the GPU": 12,
        "the host has given it nothing": 8,
        "done with its part": 40,
    }
    for device, causes in idle.items():
        assert sum(causes.values()) == 100 - _summary().busy_us[device]


def test_rates_against_the_nearer_limit():
    a, b, c = _summary().calls
    assert a.gflops == pytest.approx(2 * 1000 / 20e3)
    assert a.gbps == pytest.approx(2000 / 20e3)
    assert a.limited_by == "memory"
    assert a.of_limit == pytest.approx(a.gbps / SPEC.memory.one_device_gbps)
    assert (b.limited_by, c.gflops) == ("compute", None)
    assert b.of_limit == pytest.approx(2 * 3000 / 40e3 / SPEC.npu.matmul_gflops)
    assert (a.share, b.share, c.share) == pytest.approx((0.4, 1.0, 0.6))
    assert _summary(spec=None).calls[0].of_limit is None


def test_time_of_a_fused_call_is_shared_out_as_predicted():
    found = {(o.name, o.device): o for o in _summary().operators}
    assert found["x", "gpu"].us == pytest.approx(20 * 3 / 4)
    assert found["y", "gpu"].us == pytest.approx(20 * 1 / 4)
    assert found["x", "npu"].us == 40
    assert found["x", "gpu"].apportioned and not found["x", "npu"].apportioned
    assert sum(o.share for o in found.values()) == pytest.approx(1)


def test_parts_of_one_device_are_one_operator():
    """One part is a call of its own, the other shares one as was predicted of it."""
    early = _op("x", early=Cut(0, 1, 4), early_us=(2.0, 6.0), cost_us={"gpu": 7.0})
    table = (_call("a", "gpu", ("x_early",)), _call("b", "gpu", ("x_late", "y")))
    plan = Plan(ops=(early, _op("y", cost_us={"gpu": 2.0})), predicted_us=1.0)
    events = (
        _event("function", "main", 1, 95),
        _event("call", "a", 2, 5, 7),
        _event("kernel", "a_kernel", 10, 30, 7, thread=-1),
        _event("call", "b", 6, 9, 8),
        _event("kernel", "b_kernel", 30, 70, 8, thread=-1),
    )
    run = Run(0, 100_000, events, ("main",))
    x, y = summarise([run], {"main": table}, plan, SPEC, "float32").operators
    assert (x.name, x.device, x.us, x.apportioned) == ("x", "gpu", 20 + 30, True)
    assert (y.name, y.us) == ("y", 10)


def test_medians_over_runs():
    slower = [
        dataclasses.replace(e, end_ns=e.end_ns + 9000) if e.name == "c_kernel" else e
        for e in EVENTS
    ]
    slow = Run(0, 110_000, tuple(slower), ("main",))
    found = summarise([RUN, slow, RUN], CALLS, PLAN, SPEC, "float32")
    assert (found.run_us, found.calls[2].us) == (100, 30)


def test_other_calls_than_the_manifests_are_refused():
    events = tuple(e for e in EVENTS if e.name != "c")
    with pytest.raises(BadInput, match="build it again"):
        _summary(Run(0, 100_000, events, ("main",)))


def test_events_go_to_their_runs():
    later = [
        dataclasses.replace(e, start_ns=e.start_ns + 200_000, end_ns=e.end_ns + 200_000)
        for e in EVENTS
    ]
    first, second = runs_of([*EVENTS, *later], [(0, 100_000), (200_000, 300_000)])
    assert (first.functions, second.functions) == (("main",), ("main",))
    assert first.events == EVENTS and second.events == tuple(later)


def test_recorded_runs_add_up():
    model, runs, plan = recorded()
    found = summarise(runs, model.manifest.calls, plan, SPEC, "float32")
    assert 0 < found.busy_us["gpu"] < found.run_us
    assert 0 < found.busy_us["npu"] < found.run_us
    assert found.overlap_us <= min(found.busy_us["gpu"], found.busy_us["npu"])
    assert {o.name for o in found.operators} <= {op.name for op in plan.ops}
    assert sum(o.share for o in found.operators) == pytest.approx(1)
    assert sum(c.call.macs for c in found.calls) == sum(op.macs for op in plan.ops)
