"""A plan survives JSON and adds up."""

from relay_passes.plan import OpPlan, Plan

PLAN = Plan(
    ops=(
        OpPlan(
            name="mm",
            op="relax.matmul",
            device="npu",
            reason="npu: 4 µs against 9 µs on the gpu",
            cost_us={"gpu": 9.0, "npu": 4.0},
            declined={},
            macs=100,
        ),
        OpPlan(
            name="ids",
            op="relax.astype",
            device="gpu",
            reason="gpu: NPU declines: dtype int64",
            cost_us={"gpu": 1.0},
            declined={"npu": "dtype int64"},
            macs=0,
        ),
    ),
    predicted_us=8.0,
    handover_us=3.0,
    alternatives_us={"gpu": 10.0, "npu": 8.0},
)


def test_json_there_and_back():
    assert Plan.from_json(PLAN.to_json()) == PLAN


def test_sums():
    assert PLAN.macs == {"cpu": 0, "gpu": 0, "npu": 100}
    assert PLAN.device_us == {"cpu": 0, "gpu": 1.0, "npu": 4.0}
    assert PLAN.device == {"mm": "npu", "ids": "gpu"}


def test_refused_names_operator_device_and_reason():
    assert PLAN.refused == [
        {"name": "ids", "op": "relax.astype", "device": "npu", "reason": "dtype int64"}
    ]
