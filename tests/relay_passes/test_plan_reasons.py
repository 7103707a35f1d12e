"""The words that say why."""

from relay_passes.plan import Offer, Split
from relay_passes.plan_reasons import early_reason, lost_splits, place_reason, split_reason
from relay_passes.planner.problem import Cut

BOTH = ("gpu", "npu")
SPLIT = Split(kind="weight", axis=1, at=192, extent=256)


def reason(device, cost, refusals=None, devices=BOTH):
    return place_reason(device, cost, refusals or {}, devices, 60.0)


def test_every_case_has_its_words():
    cost = {"gpu": 200.0, "npu": 4.5}
    assert reason("npu", cost) == "npu: 4.5 µs against 200 µs on the gpu"
    stays = "gpu: stays with its neighbours (200 µs against 4.5 µs on the npu), a wait costs 60 µs"
    assert reason("gpu", cost) == stays
    assert reason("gpu", cost, devices=("gpu",)) == "gpu: the only device asked for"
    assert reason("gpu", {"gpu": 1.0}, {"npu": "int64"}) == "gpu: NPU declines: int64"
    refused = {"gpu": "sorts", "npu": "int64"}
    assert reason("cpu", {"cpu": 1.0}, refused) == ("cpu: GPU declines: sorts; NPU declines: int64")
    assert reason("npu", {"gpu": 0, "npu": 0}) == "npu: a view, stays with its neighbours"


def test_a_split_and_what_it_is_better_than():
    found = split_reason(SPLIT, {"npu": 30.0, "gpu": 22.0}, {"gpu": 80.0, "npu": 40.0})
    assert found == (
        "weight: the npu computes 192 of 256: 30 µs on the npu beside 22 µs on the gpu, "
        "alone 80 µs on the gpu and 40 µs on the npu"
    )


def test_the_best_of_the_splits_that_lost():
    offers = [
        Offer(split=SPLIT, us={"npu": 30.0, "gpu": 22.0}),
        Offer(split=Split(kind="activation", axis=0, at=32, extent=64), us={"npu": 25, "gpu": 40}),
    ]
    assert lost_splits(offers).endswith("takes 30 µs there beside 22 µs on the gpu")
    assert lost_splits([]) == ""
    assert lost_splits([Offer(split=SPLIT, us={"npu": 0.0, "gpu": 0.0})]) == ""


def test_in_which_order_the_gpu_computes():
    assert early_reason(None) == ""
    assert "64 of 128 first" in early_reason(Cut(1, 64, 128))
    assert "in two parts (12 and 40 µs), 64" in early_reason(Cut(1, 64, 128), (12.0, 40.0))
