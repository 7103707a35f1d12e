"""The fastest plan by the clock, not by the model."""

import dataclasses
import json

import pytest
from tiny_models import mlp as make_mlp

from hetero_tvm import build as build_model
from hetero_tvm import host_profile, measure_plans
from hetero_tvm.errors import BadInput
from hetero_tvm.measure_plans import distinct, fastest, simplest
from relay_passes.plan import OpPlan, Plan
from target_specs.loader import load_spec


@pytest.fixture
def mlp(tmp_path):
    return make_mlp(tmp_path / "mlp.onnx")


OP = OpPlan(
    name="a", op="relax.matmul", device="gpu", reason="", cost_us={"gpu": 1.0, "npu": 1.0},
    declined={}, macs=1,
)  # fmt: skip
ON_GPU = Plan(ops=(OP,), predicted_us=1.0)
ON_NPU = Plan(ops=(dataclasses.replace(OP, device="npu", region=0),), predicted_us=1.0)


def _shipped(*_, **__):
    return host_profile.HostProfile(load_spec("host"), ())


def test_the_same_placement_is_measured_once():
    plans = {"gpu": ON_GPU, "npu": ON_NPU, "layer": ON_GPU, "split": ON_NPU}
    assert distinct(plans) == {"gpu": ON_GPU, "npu": ON_NPU}
    assert simplest(plans) == {"gpu": "gpu", "npu": "npu", "layer": "gpu", "split": "npu"}


@pytest.mark.parametrize(
    ("measured", "best"),
    [
        ({"gpu": 10.0, "npu": 9.0, "layer": 8.0, "split": 5.0}, "split"),
        ({"gpu": 10.0, "npu": 12.0, "split": 11.0}, "gpu"),
        ({"gpu": 10.0, "split": 9.95}, "gpu"),  # within what a clock can tell: the simpler one
    ],
)
def test_fastest(measured, best):
    assert fastest(measured) == best


def test_a_build_follows_what_it_measured(tmp_path, mlp, monkeypatch):
    """Whatever the clock says: here it is made to say that the NPU is by far the fastest."""
    real = measure_plans.time_plans
    seen = {}

    def times(executables, ranges):
        seen.update(real(executables, ranges))
        return {mode: 1.0 if mode == "npu" else 1000.0 for mode in executables}

    monkeypatch.setattr(measure_plans, "time_plans", times)
    result = build_model(mlp, target="host", output=tmp_path / "m.so", check=False, measure=True)
    assert all(us > 0 for us in seen.values())
    assert {"gpu", "npu"} <= seen.keys()
    assert result.plan.measured_us["npu"] == 1.0
    assert {op.device for op in result.plan.ops if op.macs} == {"npu"}
    assert json.loads(result.plan.to_json())["measured_us"] == dict(result.plan.measured_us)


def test_this_machine_is_measured_unless_told_otherwise(tmp_path, mlp, monkeypatch):
    def measured(**more):
        result = build_model(mlp, target="host", output=tmp_path / "m.so", check=False, **more)
        return set(result.plan.measured_us)

    assert not measured()  # with shipped figures, as tests are
    monkeypatch.setattr(
        measure_plans, "time_plans", lambda built, ranges: dict.fromkeys(built, 1.0)
    )
    monkeypatch.setattr("hetero_tvm.compiler.is_measured", lambda: True)
    monkeypatch.setattr("hetero_tvm.compiler.host_profile", _shipped)
    assert {"gpu", "npu"} <= measured()
    assert not measured(measure=False)


def test_what_was_measured_is_not_built_again(tmp_path, mlp):
    result = build_model(mlp, target="host", output=tmp_path / "m.so", check=False, measure=True)
    assert "measure" in result.seconds
    assert "codegen" not in result.seconds


def test_a_phone_cannot_be_measured_here(tmp_path, mlp):
    with pytest.raises(BadInput, match="--measure runs on this machine: use it with --target host"):
        build_model(mlp, target="snapdragon-8-gen-3", output=tmp_path / "m.so", measure=True)
