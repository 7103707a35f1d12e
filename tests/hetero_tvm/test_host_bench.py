"""Chains are what they claim to be and run on the devices; how long they take is not tested."""

import dataclasses
import itertools

import numpy as np
import pytest

from hetero_tvm import host_bench, runtime
from hetero_tvm.costs import block_codes
from hetero_tvm.host_bench import TINY, chain, chains, compiled, matmul
from relay_passes.constants import array_of
from relay_passes.lower_gpu import lower_gpu
from relay_passes.program import read_program
from schedules.defaults import default_legalizations, default_rules
from schedules.tvm_target import tvm_target
from schedules.w4a16_table import W4Table
from target_specs.loader import load_spec

SPEC = load_spec("host")


def test_chain_is_as_long_as_asked():
    assert len(read_program(chain(matmul(4, 8), 3))) == 3
    nodes = read_program(chains(matmul(4, 8), 2, 3))
    assert len(nodes) == 5
    assert sum(node.is_output for node in nodes) == 2


@pytest.mark.parametrize(
    ("device_of", "npu_runs"),
    [
        pytest.param(lambda i: "gpu", 0, id="gpu"),
        pytest.param(lambda i: "npu", 1, id="one_region"),
        pytest.param(lambda i: ("gpu", "npu")[i % 2], 2, id="by_turns"),
    ],
)
def test_runs_where_it_is_told(device_of, npu_runs):
    run = compiled(chain(TINY, 4), SPEC, device_of)
    runtime.reset_counters()
    assert run() > 0
    assert runtime.counters()["npu_runs"] == npu_runs


def test_both_devices_at_once_run_both_chains():
    run = compiled(chains(TINY, 2, 3), SPEC, lambda i: "npu" if i < 2 else "gpu")
    runtime.reset_counters()
    run()
    assert runtime.counters()["npu_runs"] == 1
    assert runtime.counters()["kernel_launches"] == 3


def test_both_devices_compute_with_the_codes_of_a_weight_of_four_bits():
    case = host_bench.coded_matmul(4, 64)
    mod, table = chain(case, 1), W4Table(case.weights)
    lowered = lower_gpu(
        mod,
        target=tvm_target(SPEC.gpu),
        legalizations=default_legalizations(SPEC.gpu, table),
        rules=default_rules(SPEC.gpu),
    )
    assert any("w4a16" in var.name_hint for var in lowered.functions)
    (product,) = read_program(mod)
    assert block_codes(SPEC.npu, table)(product.call).bits == 4
    for where in ("gpu", "npu"):
        assert host_bench.compiled(mod, SPEC, lambda _, on=where: on, case.weights)() > 0


def test_a_step_is_the_difference_of_two_chains(monkeypatch):
    per_step = {"gpu": 7.0, "npu": 3.0}

    def compiled(mod, spec, device_of, weights=()):
        return len(read_program(mod)), per_step[device_of(0)]

    def in_turns_us(runs, budget):
        return [50.0 + length * us for length, us in runs]

    monkeypatch.setattr(host_bench, "compiled", compiled)
    monkeypatch.setattr(host_bench, "in_turns_us", in_turns_us)
    assert host_bench.chains_us(TINY, SPEC, ("npu", "gpu"), 0.1) == pytest.approx(per_step)
    monkeypatch.setattr(host_bench, "in_turns_us", lambda runs, budget: [1.0, 2.0])
    assert host_bench.chains_us(TINY, SPEC, ("gpu",), 0.1)["gpu"] > 0  # noise is no negative time


@pytest.mark.parametrize(
    ("gpu", "npu"),
    [
        pytest.param(1.0, 1.0, id="nobody_is_slowed_down"),
        pytest.param(0.5, 0.5, id="one_device"),
        pytest.param(0.8, 0.55, id="one_loses_more"),
    ],
)
def test_slowdown_finds_what_each_device_keeps(monkeypatch, gpu, npu):
    step_us = {"gpu": 40.0, "npu": 10.0}
    kept = {"gpu": gpu, "npu": npu}

    def compiled(mod, spec, device_of):
        steps = [device_of(i) for i in range(len(read_program(mod)))]
        return {device: steps.count(device) * us for device, us in step_us.items()}

    def run(alone):
        """Both until one is done, then the other one alone."""
        first = min(kept, key=lambda device: alone[device] / kept[device])
        other = {"gpu": "npu", "npu": "gpu"}[first]
        beside = alone[first] / kept[first]
        return beside + max(0.0, alone[other] - kept[other] * beside)

    lengths = []

    def in_turns_us(runs, budget):
        lengths.extend(tuple(us / step_us[device] for device, us in work.items()) for work in runs)
        return [run(work) for work in runs]

    monkeypatch.setattr(host_bench, "compiled", compiled)
    monkeypatch.setattr(host_bench, "in_turns_us", in_turns_us)
    found = host_bench.slowdown(TINY, SPEC, step_us, 0.1)
    assert found == pytest.approx(kept, abs=0.011)
    assert lengths == [(2, 0), (4, 0), (0, 8), (0, 16), (4, 8), (2, 16)]


def test_slowdown_by_noise_alone_is_within_bounds(monkeypatch):
    monkeypatch.setattr(host_bench, "compiled", lambda *args: None)
    for times in ([1.0, 2.0, 1.0, 2.0, 0.1, 1e9], [1.0, 2.0, 1.0, 2.0, 1e9, 1e9]):
        monkeypatch.setattr(host_bench, "in_turns_us", lambda runs, budget, us=times: us)
        found = host_bench.slowdown(TINY, SPEC, {"gpu": 1.0, "npu": 1.0}, 0.1)
        assert all(0.05 <= kept <= 1 for kept in found.values())


def test_programs_take_turns_and_bursts_do_not_count(monkeypatch):
    monkeypatch.setattr(host_bench, "_FEWEST", 40)
    order = []

    def program(name, us):
        times = itertools.cycle([us, *[10 * us] * 9])  # another program is busy most of the time

        def run():
            order.append(name)
            return next(times) / 1e6

        return run

    found = host_bench.in_turns_us([program("a", 2.0), program("b", 7.0)], 0.0)
    assert found == pytest.approx([2.0, 7.0])
    assert order[6:] == ["a", "b"] * 40  # behind those that warm up


def test_weights_are_of_about_unit_gain():
    values = array_of(host_bench.weight(64, 256))
    assert float(np.std(values)) == pytest.approx(1 / 16, rel=0.1)


def test_overheads_add_up(monkeypatch):
    """Every figure that a spec needs is there, and an exchange costs what was measured of it."""
    launch, op, gpu_run, npu_run, exchange = 4.0, 0.5, 10.0, 6.0, 300.0
    gpu_half, npu_half = 100.0, 150.0
    chain_times = iter([{"gpu": launch}, {"npu": op}, {"gpu": gpu_half, "npu": npu_half}])
    runs = [gpu_run, npu_run, 100.0, 100.0 + 8 * exchange]
    monkeypatch.setattr(host_bench, "chains_us", lambda *a, **k: next(chain_times))
    monkeypatch.setattr(host_bench, "compiled", lambda *a: None)
    monkeypatch.setattr(host_bench, "compiled_cut", lambda *a: None)
    monkeypatch.setattr(host_bench, "in_turns_us", lambda *a: runs)
    found = host_bench.overheads(SPEC, 0.1)
    gpu, npu = found["gpu"], found["npu"]
    # Both wait at once; the NPU, the slower one, is given its next region then.
    for way in (gpu["flag_us"], npu["handover_us"]):
        assert npu_half + npu["submit_us"] + way == pytest.approx(exchange)
    for table in ("gpu", "npu"):
        assert found[table].keys() <= {f.name for f in dataclasses.fields(getattr(SPEC, table))}


def test_memory_is_of_what_is_read_and_written(monkeypatch):
    monkeypatch.setattr(host_bench, "in_turns_us", lambda runs, budget: [10_000.0, 16_000.0])
    copied = 2 * 4 * 2**24
    expected = copied / 10_000 / 1e3, 2 * copied / 16_000 / 1e3
    assert host_bench.memory_gbps(0.1) == pytest.approx(expected)
