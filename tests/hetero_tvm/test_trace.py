"""A trace is what Perfetto and Chrome read: known events, named threads, flows with two ends."""

import itertools
import json

import pytest
from trace_schema import check_schema

from hetero_tvm.simulator import Machine, Wait, Work, simulate
from hetero_tvm.trace import trace

SOC = Machine(
    two_devices_gbps=60.0,
    launch_us=10.0,
    drained_us=70.0,
    region_us=20.0,
    seen_us={"cpu": 0.0, "gpu": 3.0, "npu": 4.0},
)
RUN = simulate(
    [
        Work(name="a", device="npu", us=40, opens_region=True),
        Work(name="b", device="gpu", us=50),
        Wait("npu"),
        Work(name="c", device="gpu", us=5),
        Wait("gpu"),
    ],
    SOC,
)


def test_is_valid_and_names_the_devices():
    document = trace({"split": {"prefill": RUN, "decode": RUN}}, "demo")
    threads = check_schema(json.loads(json.dumps(document)))
    assert sorted(threads.values()) == ["cpu", "gpu", "npu"]
    work = [e for e in document["traceEvents"] if e["ph"] == "X" and "work" in e["cat"]]
    assert [(e["name"], e["args"]["phase"]) for e in work] == [
        *[(name, "prefill") for name in "abc"],
        *[(name, "decode") for name in "abc"],
    ]
    assert work[3]["ts"] == pytest.approx(work[0]["ts"] + RUN.total_us)


def test_one_process_per_mode():
    document = trace({mode: {"run": RUN} for mode in ("gpu", "split")}, "demo")
    check_schema(document)
    names = [e["args"]["name"] for e in document["traceEvents"] if e["name"] == "process_name"]
    assert names == ["gpu: demo (simulated)", "split: demo (simulated)"]


def test_nothing_overlaps_on_one_thread():
    events = [e for e in trace({"m": {"run": RUN}}, "demo")["traceEvents"] if e["ph"] == "X"]
    for tid in (1, 2, 3):
        spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["tid"] == tid)
        assert all(end <= start + 1e-6 for (_, end), (start, _) in itertools.pairwise(spans))
