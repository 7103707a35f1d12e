"""Regions of a plan with a stand-in for the vendor's compiler."""

import dataclasses

import onnx
import pytest
import tiny_models as tiny

from hetero_tvm import pipeline, plan_regions
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig
from hetero_tvm.plan_regions import estimate_regions
from relay_passes.part_work import part_work
from relay_passes.program import read_program
from schedules.cost_model import CostModel
from schedules.npu_estimate import NpuEstimate, Scale, proxy_for
from schedules.npu_profile import NoEstimate, Profile
from target_specs.loader import load_spec

SPEC = load_spec("snapdragon-8-gen-3")
PROFILE = Profile(
    us=50,
    low_us=40,
    high_us=60,
    input_fill_bytes=1,
    intermediate_fill_bytes=2,
    intermediate_spill_bytes=3,
    output_spill_bytes=4,
    missing_ops=0,
)
PROXY, WHY = proxy_for(SPEC.npu)
ESTIMATE = NpuEstimate(
    proxy=PROXY, proxy_why=WHY, profile=PROFILE, scale=Scale(0.5, "halved"), cached=False
)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """An MLP wholly on the NPU: its works, regions, and plan."""
    path = tiny.mlp(tmp_path_factory.mktemp("model") / "mlp.onnx")
    config = BuildConfig(model=path, target=SPEC.name, output=None, devices="npu", estimate=False)
    state = pipeline.run(State(config=config, spec=SPEC, note=lambda line: None), plan_only=True)
    works = {node.name: node.work for node in read_program(state.mod)}
    for phase in pipeline.PHASES:
        if phase.name in ("split", "group", "lower_npu"):
            state = phase.run(state)
    return works, state.regions, state.plan


def estimated(monkeypatch, planned, result):
    """The one region, and what was asked for."""
    asked = {}

    def estimate_models(models, npu, *, cache_dir, progress, timeout_s, trace):
        assert trace
        asked.update(models)
        return dict.fromkeys(models, result)

    monkeypatch.setattr(plan_regions, "estimate_models", estimate_models)
    works, regions, _ = planned
    (region,) = estimate_regions(regions, works, CostModel(SPEC), cache_dir=None)
    return region, asked


def traced(**figures):
    return dataclasses.replace(ESTIMATE, profile=dataclasses.replace(PROFILE, **figures))


def test_prediction_and_estimate_side_by_side(planned, monkeypatch):
    region, asked = estimated(monkeypatch, planned, ESTIMATE)
    onnx.checker.check_model(onnx.load_from_string(asked[region.symbol]))
    plan = planned[2]
    assert set(region.operators) == set(plan.device)
    assert region.operators_us == pytest.approx(plan.device_us["npu"])
    # x [4, 32] and y [4, 16] as float16 through on-chip memory
    nbytes = 4 * (32 + 16) * 2
    assert region.border_us == pytest.approx(nbytes / SPEC.memory.one_device_gbps / 1e3)
    assert region.ratio == pytest.approx(25.0 / (region.operators_us + region.border_us))
    found = region.to_dict()["estimated"]
    assert (found["us"], found["low_us"], found["high_us"]) == (25.0, 20.0, 30.0)
    assert found["provenance"] == "vendor-estimated"
    assert found["proxy"]["unscaled"] == dataclasses.asdict(PROFILE)
    assert found["scale"] == {"factor": 0.5, "rule": "halved"}
    assert region.to_dict()["provenance"] == "vendor-estimated"


def test_operators_are_priced_by_their_part_of_the_estimate(planned, monkeypatch):
    """Names that ONNX Runtime and QNN make of ours find their operator; the sum is the estimate."""
    first, bias, relu, second = planned[1][0].names
    nodes = {binding: node for node, binding in reversed(planned[1][0].maker.items())}
    shares = {
        f"{nodes[first]}/MatMulAddFusion_2": 0.5,
        f"t{nodes[second].removeprefix('n')}Reshape": 0.25,
        nodes[relu]: 0.05,
        "gemm_output_reshape_2": 0.1,
    }
    region, _ = estimated(monkeypatch, planned, traced(node_shares=shares))
    assert region.shares == pytest.approx({first: 0.5, second: 0.25, relu: 0.05})
    costs = dataclasses.replace(CostModel(SPEC), npu_regions=region.costs())
    us = {name: costs.cost_us(planned[0][name], "npu") for name in planned[0]}
    assert sum(us.values()) + region.border_us == pytest.approx(25.0)
    assert us[first] == pytest.approx(2 * us[second])
    assert us[bias] == 0.0  # inside the product
    assert costs.provenance(planned[0][first], "npu") == "vendor-estimated"
    assert "a region of 4 operators, for QCS9100; halved" in region.costs()[first].why


def test_what_does_not_fit_on_the_chip_is_known_by_operator(planned, monkeypatch):
    first = planned[1][0].names[0]
    node = next(n for n, binding in planned[1][0].maker.items() if binding == first)
    found = traced(node_shares={node: 1.0}, node_spills={node: 4096, "other": 10})
    region, _ = estimated(monkeypatch, planned, found)
    assert region.spills == {first: 4096}


def test_a_lower_bound_counts_only_above_the_model(planned, monkeypatch):
    low, _ = estimated(monkeypatch, planned, traced(us=0, missing_ops=2))
    assert not low.counts
    assert low.costs() == {}
    assert low.to_dict()["provenance"] == "modelled"
    high, _ = estimated(monkeypatch, planned, traced(us=5000, missing_ops=2))
    costs = dataclasses.replace(CostModel(SPEC), npu_regions=high.costs())
    total = sum(costs.cost_us(work, "npu") for work in planned[0].values())
    assert total + high.border_us == pytest.approx(2500.0)
    assert all(cost.lower_bound for cost in high.costs().values())


def test_a_region_without_an_estimate_says_why(planned, monkeypatch):
    region, _ = estimated(monkeypatch, planned, NoEstimate("it crashed"))
    assert region.ratio is None
    assert region.costs() == {}
    assert region.to_dict()["estimated"] == {"us": None, "reason": "it crashed"}


def test_parts_of_split_operators_are_regions_operators(tmp_path, monkeypatch):
    path = tiny.mlp(tmp_path / "mlp.onnx", rows=512)
    spec = load_spec("host")
    config = BuildConfig(model=path, target="host", output=None)
    state = pipeline.run(State(config=config, spec=spec, note=lambda line: None), plan_only=True)
    nodes = read_program(state.mod)
    assert any(op.split for op in state.plan.ops)
    works = {
        node.name: work
        for node, op in zip(nodes, state.plan.ops, strict=True)
        if (work := part_work(node, op, "npu")) is not None
    }
    for phase in pipeline.PHASES:
        if phase.name in ("split", "group", "lower_npu"):
            state = phase.run(state)
    monkeypatch.setattr(
        plan_regions, "estimate_models", lambda models, npu, **_: dict.fromkeys(models, ESTIMATE)
    )
    regions = estimate_regions(state.regions, works, CostModel(spec), cache_dir=None)
    found = {name: us for region in regions for name, us in region.alone_us.items()}
    assert found == {
        name: CostModel(spec).cost_us(work, "npu")
        for name, work in works.items()
        if work.kind != "view"
    }
