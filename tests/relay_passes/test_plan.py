"""A plan survives JSON and adds up."""

import dataclasses
import json

import pytest

from relay_passes.plan import Offer, OpPlan, Plan, Split, Wait
from relay_passes.planner.problem import Cut

HALF = Split(kind="weight", axis=1, at=64, extent=256)
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
            region=0,
            offers=(Offer(split=HALF, us={"gpu": 8.0, "npu": 3.0}),),
        ),
        OpPlan(
            name="cut",
            op="relax.matmul",
            device="gpu+npu",
            reason="weight: the npu computes 64 of 256",
            cost_us={"gpu": 10.0, "npu": 20.0},
            declined={},
            macs=300,
            split=HALF,
            region=1,
            split_us={"gpu": 7.0, "npu": 5.0},
            offers=(Offer(split=HALF, us={"gpu": 7.0, "npu": 5.0}),),
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
    predicted_us=12.0,
    waits=(Wait(waiter="gpu", on="npu", before="cut", us=1.5),),
    border_bytes=512.0,
    bound_us=10.0,
    exact=False,
    alternatives_us={"gpu": 20.0, "npu": 25.0, "layer": 14.0, "split": 12.0},
    busy_us={"gpu": 8.0, "npu": 9.5, "cpu": 0.0},
)


def test_json_there_and_back():
    assert Plan.from_json(PLAN.to_json()) == PLAN
    early = dataclasses.replace(PLAN.ops[2], early=Cut(0, 3, 8), early_us=(0.5, 0.75))
    plan = dataclasses.replace(PLAN, ops=(early,))
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.places != dataclasses.replace(PLAN, ops=PLAN.ops[2:]).places


def test_json_of_before_there_was_early_work():
    raw = PLAN.to_dict()
    for op in raw["ops"]:
        del op["early"], op["early_us"]
    assert Plan.from_json(json.dumps(raw)) == PLAN


def test_an_operator_in_two_parts_is_cut():
    assert [op.cut for op in PLAN.ops] == [None, HALF.cut, None]
    early = dataclasses.replace(PLAN.ops[2], early=Cut(0, 3, 8), early_us=(0.5, 0.75))
    assert early.cut == Cut(0, 3, 8)
    assert (early.share("gpu"), early.part_us("gpu"), early.part_us("npu")) == (1.0, 1.25, 0.0)
    assert early.early_dict() == {"axis": 0, "at": 3, "extent": 8, "us": [0.5, 0.75]}
    assert PLAN.ops[2].early_dict() is None
    untold = dataclasses.replace(early, early_us=())
    assert untold.early_parts_us == (untold.cost_us["gpu"] * 3 / 8, untold.cost_us["gpu"] * 5 / 8)
    assert untold.part_us("gpu") == untold.cost_us["gpu"]


def test_sums_count_parts():
    assert PLAN.macs == {"cpu": 0, "gpu": 225, "npu": 175}  # a quarter of `cut` is the NPU's
    assert PLAN.device_us == {"cpu": 0, "gpu": 8.0, "npu": 9.0}
    assert PLAN.device == {"mm": "npu", "cut": "gpu+npu", "ids": "gpu"}
    assert PLAN.regions == 2
    assert PLAN.split_share == pytest.approx(0.75)


def test_shares_of_one_operator():
    whole, cut, _ = PLAN.ops
    assert [whole.share(device) for device in ("cpu", "gpu", "npu")] == [0, 0, 1]
    assert [cut.share(device) for device in ("cpu", "gpu", "npu")] == [0, 0.75, 0.25]
    assert [cut.part_us(device) for device in ("cpu", "gpu", "npu")] == [0, 7.0, 5.0]
    assert HALF.cut == Cut(1, 64, 256)


def test_the_gap_is_to_the_bound_and_none_where_the_plan_is_exact():
    assert PLAN.gap == pytest.approx(0.2)
    assert dataclasses.replace(PLAN, exact=True).gap == 0
    # the plan with the least energy is not the fastest
    assert dataclasses.replace(PLAN, exact=True, objective="energy").gap == pytest.approx(0.2)
    assert dataclasses.replace(PLAN, bound_us=0.0).gap == float("inf")


def test_refused_names_operator_device_and_reason():
    assert PLAN.refused == [
        {"name": "ids", "op": "relax.astype", "device": "npu", "reason": "dtype int64"}
    ]
