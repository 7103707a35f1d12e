"""Rounds of planning with a planner and a vendor's compiler that are tables."""

import dataclasses
import importlib.util

import pytest
import tiny_models as tiny

from hetero_tvm import pipeline
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig
from hetero_tvm.plan_regions import Region
from hetero_tvm.plan_rounds import plan_by_regions
from relay_passes.place import MODES
from relay_passes.plan import OpPlan, Plan
from schedules.cost_model import CostModel
from schedules.npu_estimate import NpuEstimate, Scale, proxy_for
from schedules.npu_profile import NoEstimate, Profile
from target_specs.loader import load_spec

SPEC = load_spec("snapdragon-8-gen-3")
PROXY, WHY = proxy_for(SPEC.npu)
GPU_US = {"a": 40.0, "b": 40.0, "c": 40.0}
ALONE_US = {"a": 10.0, "b": 10.0, "c": 10.0}  # on the NPU, as modelled
REGION_US = 5.0  # that a further region costs


def estimate(us, **figures):
    fields = dict.fromkeys((f.name for f in dataclasses.fields(Profile)), 0)
    fields |= {"us": round(us), "node_shares": {}, "node_spills": {}, **figures}
    return NpuEstimate(
        proxy=PROXY, proxy_why=WHY, profile=Profile(**fields), scale=Scale(1.0, ""), cached=False
    )


class Table:
    """Three operators in a row; `inside_us` says what each takes in which region on the NPU."""

    def __init__(self, inside_us, spills=None, silent=False):
        self.inside_us = inside_us  # (operators of a region) -> their estimates
        self.spills = spills or {}
        self.silent = silent
        self.estimated = []
        self.searches = 0

    def _plan(self, devices, costs, breaks=()):
        region, ops, total, before = -1, [], 0.0, None
        for name, device in devices.items():
            us = {"gpu": GPU_US[name], "npu": self._npu_us(name, costs)}
            if device == "npu" and (before != "npu" or name in breaks):
                region += 1
                total += REGION_US
            total += us[device]
            before = device
            ops.append(
                OpPlan(
                    name=name, op="relax.add", device=device, reason="", cost_us=us, declined={},
                    macs=0, region=region if device == "npu" else None,
                )
            )  # fmt: skip
        return Plan(ops=tuple(ops), predicted_us=total, bound_us=total, breaks=tuple(breaks))

    def _npu_us(self, name, costs):
        inside = costs.npu_regions.get(name)
        return ALONE_US[name] * (inside.factor if inside else 1.0)

    def place(self, costs, also=(), *, modes=MODES, beam=None):
        self.searches += 1
        best = {n: "npu" if self._npu_us(n, costs) < GPU_US[n] else "gpu" for n in GPU_US}
        plans = {mode: self._plan(dict.fromkeys(GPU_US, mode), costs) for mode in MODES[:2]}
        free = [
            self._plan(best, costs),
            *plans.values(),
            *(self._plan(p.device, costs) for p in also),
        ]
        plans["layer"] = plans["split"] = min(free, key=lambda plan: plan.predicted_us)
        return {mode: plans[mode] for mode in modes}

    def reprice(self, plan, costs, mode, breaks):
        return self._plan(plan.device, costs, breaks)

    def estimate(self, plan, costs):
        regions = {}
        for op in plan.ops:
            if op.region is not None:
                regions.setdefault(op.region, []).append(op.name)
        found = []
        for names in map(tuple, regions.values()):
            self.estimated.append(names)
            inside = {name: self.inside_us(name, names) for name in names}
            total = sum(inside.values())
            found.append(
                Region(
                    symbol=f"npu_region_{len(found)}",
                    operators=names,
                    alone_us={name: ALONE_US[name] for name in names},
                    border_us=0.0,
                    estimate=NoEstimate("no") if self.silent else estimate(total),
                    shares={name: us / total for name, us in inside.items()},
                    spills=self.spills.get(names, {}),
                )
            )
        return tuple(found)


def rounds(table, wanted="split", **more):
    lines = []
    found = plan_by_regions(table, CostModel(SPEC), wanted, lines.append, **more)
    return found, lines


def test_an_operator_that_its_region_makes_dear_goes_elsewhere():
    """As modelled all three belong on the NPU; there `b` takes ten times that."""
    table = Table(lambda name, names: 100.0 if name == "b" else 12.0)
    found, _ = rounds(table)
    assert found.plans["split"].device == {"a": "npu", "b": "gpu", "c": "npu"}
    assert found.plans["split"].predicted_us == pytest.approx(12 + 40 + 12 + 2 * REGION_US)
    assert found.plans["npu"].predicted_us == pytest.approx(124 + REGION_US)
    assert found.plans["gpu"].predicted_us == pytest.approx(120)
    assert [region.operators for region in found.regions["split"]] == [("a",), ("c",)]
    assert set(found.costs["split"].npu_regions) == {"a", "b", "c"}


def test_a_plan_is_priced_by_its_own_regions_and_loses_by_them():
    """By itself a region of `a` is as dear as the GPU; only the NPU's own plan is cheap."""
    table = Table(lambda name, names: 20.0 if len(names) == 3 else 45.0)
    found, _ = rounds(table)
    assert found.plans["split"].device == dict.fromkeys("abc", "npu")
    assert found.plans["split"].exact


def test_never_slower_than_a_single_device():
    """Whatever is tried looks good before it is estimated, and is bad after it."""
    table = Table(lambda name, names: 500.0 / len(names) + 7.0 * len(table.estimated))
    found, _ = rounds(table)
    us = {mode: found.plans[mode].predicted_us for mode in MODES}
    assert us["split"] <= min(us["gpu"], us["npu"]) + 1e-9
    assert found.plans["split"].alternatives_us == us


def test_it_ends_when_no_plan_is_new_and_after_some_rounds_anyhow():
    table = Table(lambda name, names: 12.0)
    rounds(table)
    assert table.estimated == [("a", "b", "c")]
    assert table.searches == 3  # for the NPU alone, all modes, and once with all it has
    hasty = Table(lambda name, names: 100.0 if name == "b" else 12.0)
    rounds(hasty, rounds=0)
    assert hasty.searches == 2


@pytest.mark.parametrize("wanted", ["gpu", "npu"])
def test_a_single_device_needs_its_own_estimate_only(wanted):
    table = Table(lambda name, names: 12.0)
    found, _ = rounds(table, wanted)
    assert set(found.regions) == {wanted}
    assert table.estimated == ([("a", "b", "c")] if wanted == "npu" else [])
    assert set(found.plans) == set(MODES)


def test_without_estimates_the_model_stays():
    found, _ = rounds(Table(lambda name, names: 100.0, silent=True))
    assert found.plans["split"].device == dict.fromkeys("abc", "npu")
    assert found.plans["split"].predicted_us == pytest.approx(30 + REGION_US)


def test_a_region_that_outgrows_the_chip_is_cut_where_that_saves_time():
    whole = ("a", "b", "c")
    spills = {whole: {"b": 10_000, "a": 100}}
    table = Table(lambda name, names: 30.0 if names == whole else 15.0, spills)
    found, lines = rounds(table)
    plan = found.plans["split"]
    assert plan.breaks == ("b",)
    assert [op.region for op in plan.ops] == [0, 1, 1]
    assert plan.predicted_us == pytest.approx(45 + 2 * REGION_US)
    assert lines == ["cutting an NPU region that outgrows the chip: 0.055 ms instead of 0.095 ms"]


def test_a_cut_that_does_not_pay_is_not_kept():
    whole = ("a", "b", "c")
    table = Table(lambda name, names: 15.0, {whole: {"b": 10_000}})
    found, lines = rounds(table)
    assert found.plans["split"].breaks == ()
    assert lines == []
    assert ("b", "c") in table.estimated  # it was tried


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None,
    reason="onnxruntime-qnn is not installed (pip install 'hetero-tvm[qnn]')",
)
def test_a_real_region_that_outgrows_a_small_chip_is_cut(tmp_path):
    """Two layers of [1024, 512] with a residual, where 2 MiB hold two of their tensors.

    By Qualcomm's estimates of QNN 2.51 the two halves spill less than the whole, and take less
    with the hand-over between them.
    """
    path = tiny.residual_mlp(tmp_path / "m.onnx", rows=1024, wide=512)
    config = BuildConfig(
        model=path, target=SPEC.name, output=None, devices="npu", check=False, cache_dir=tmp_path
    )

    def plan(vtcm_mb, estimate):
        spec = dataclasses.replace(SPEC, npu=dataclasses.replace(SPEC.npu, vtcm_mb=vtcm_mb))
        asked = dataclasses.replace(config, estimate=estimate)
        state = State(config=asked, spec=spec, note=lambda line: None)
        return pipeline.run(state, plan_only=True)

    small = plan(2, None)
    (before,) = small.plan.breaks
    assert small.plan.regions == 2
    halves = small.estimated["npu"]
    assert before in halves[1].alone_us
    # Each half counts what it is estimated at, but for the model's input, which the clocks leave
    # out of the border.
    total = sum(region.estimate.us for region in halves)
    assert small.plan.predicted_us == pytest.approx(total, rel=0.03)
    roomy = plan(8, None)
    assert roomy.plan.breaks == ()
    assert roomy.plan.predicted_us < small.plan.predicted_us
