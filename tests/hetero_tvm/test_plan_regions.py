"""Regions of a plan with a stand-in for the vendor's compiler."""

import dataclasses

import onnx
import pytest
import tiny_models as tiny

from hetero_tvm import pipeline, plan_regions
from hetero_tvm.config import BuildConfig
from hetero_tvm.errors import EnvironmentProblem
from hetero_tvm.plan_regions import estimate_regions
from schedules.cost_model import CostModel
from schedules.npu_estimate import EstimateUnavailable, NpuEstimate, Scale, proxy_for
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
def state(tmp_path_factory):
    path = tiny.mlp(tmp_path_factory.mktemp("model") / "mlp.onnx")
    config = BuildConfig(model=path, target=SPEC.name, output=None, devices="npu")
    return pipeline.run(
        pipeline.State(config=config, spec=SPEC, note=lambda line: None), plan_only=True
    )


def answer(monkeypatch, result):
    asked = {}

    def estimate_models(models, npu, *, cache_dir, progress):
        if isinstance(result, Exception):
            raise result
        asked.update(models)
        return dict.fromkeys(models, result)

    monkeypatch.setattr(plan_regions, "estimate_models", estimate_models)
    return asked


def test_prediction_and_estimate_side_by_side(state, monkeypatch):
    asked = answer(monkeypatch, ESTIMATE)
    (region,) = estimate_regions(state, CostModel(SPEC))
    onnx.checker.check_model(onnx.load_from_string(asked[region.symbol]))
    assert set(region.operators) == set(state.plan.device)
    assert region.operators_us == pytest.approx(state.plan.device_us["npu"])
    # x [4, 32] and y [4, 16] as float16 through on-chip memory
    nbytes = 4 * (32 + 16) * 2
    assert region.border_us == pytest.approx(nbytes / SPEC.memory.one_device_gbps / 1e3)
    assert region.ratio == pytest.approx(25.0 / (region.operators_us + region.border_us))
    found = region.to_dict()["estimated"]
    assert (found["us"], found["low_us"], found["high_us"]) == (25.0, 20.0, 30.0)
    assert found["provenance"] == "vendor-estimated"
    assert found["proxy"]["unscaled"] == dataclasses.asdict(PROFILE)
    assert found["scale"] == {"factor": 0.5, "rule": "halved"}


def test_a_region_without_an_estimate_says_why(state, monkeypatch):
    answer(monkeypatch, NoEstimate("it crashed"))
    (region,) = estimate_regions(state, CostModel(SPEC))
    assert region.ratio is None
    assert region.to_dict()["estimated"] == {"us": None, "reason": "it crashed"}


def test_missing_compiler_is_a_problem_of_the_environment(state, monkeypatch):
    answer(monkeypatch, EstimateUnavailable("onnxruntime-qnn is not installed; run: pip"))
    with pytest.raises(EnvironmentProblem, match="--estimate: onnxruntime-qnn is not installed"):
        estimate_regions(state, CostModel(SPEC))
