"""A question that makes no sense is refused where it is put."""

from fractions import Fraction

import pytest

from relay_passes.planner.problem import Choice, Cut, Op, Problem, Waiting

FREE = Waiting(
    wait_us={(d, e): 0.0 for d in ("cpu", "gpu", "npu") for e in ("cpu", "gpu", "npu") if d != e}
)
CUT = Cut(axis=0, at=96, extent=128)


READ = Choice({"gpu": 1.0}, (None,))
ALONE = Op((Choice({"gpu": 1.0}, ()),))
EARLY = Op((Choice({"gpu": 1.0}, (), early=CUT, late_us=0.5),))


def test_parts_of_a_cut():
    assert CUT.of("npu") == (0, 96) and CUT.of("gpu") == (96, 128)
    assert CUT.share == Fraction(3, 4)


def test_a_cut_is_of_two_devices_or_of_one():
    assert Choice({"npu": 1.0, "gpu": 1.0}, (), CUT).cut == EARLY.choices[0].cut == CUT
    assert READ.cut is None


def test_the_share_where_no_weight_is_cut():
    ways = [
        Choice({"npu": 1.0, "gpu": 1.0}, (), CUT, k) for k in ("activation", "weight", "hybrid")
    ]
    assert [way.activation_share for way in ways] == [CUT.share, None, None]
    assert (EARLY.choices[0].activation_share, READ.activation_share) == (CUT.share, None)


def test_choices_are_told_apart_by_what_they_do():
    split = Choice({"npu": 1.0, "gpu": 1.0}, (), CUT)
    assert split.place == Choice({"npu": 2.0, "gpu": 5.0}, (), CUT, "weight").place
    places = {split.place, READ.place, EARLY.choices[0].place, Choice({"npu": 1.0}, ()).place}
    assert len(places) == 4


def test_device_of_a_choice():
    assert Choice({"npu": 1.0, "gpu": 1.0}, (), CUT).device == "gpu+npu"
    assert Choice({"cpu": 1.0}, ()).device == "cpu"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cut(0, 0, 4), "something on either side"),
        (lambda: Cut(0, 4, 4), "something on either side"),
        (lambda: Choice({}, ()), "a choice runs on some of"),
        (lambda: Choice({"dsp": 1.0}, ()), "not on ..dsp"),
        (lambda: Choice({"gpu": 1.0, "npu": 1.0}, ()), "GPU and NPU make a cut"),
        (lambda: Choice({"gpu": 1.0}, (), CUT), "one device a whole"),
        (lambda: Choice({"gpu": 1.0}, (CUT,)), "reads whole tensors"),
        (lambda: Choice({"gpu": float("nan")}, ()), "finite and not negative"),
        (lambda: Choice({"npu": 1.0}, (), early=CUT), "only the GPU makes a part early"),
        (lambda: Choice({"gpu": 1.0}, (), early=CUT, late_us=1.5), "the second part takes 1.5"),
        (lambda: Choice({"gpu": 1.0}, (), late_us=0.5), "the second part takes 0.5"),
        (
            lambda: Problem((EARLY, ALONE, Op((READ,), (0,))), FREE),
            "2 reads 0, which is made early",
        ),
        (
            lambda: Problem((Op(EARLY.choices, is_output=True),), FREE),
            "0 is made early, and an output",
        ),
        (lambda: Waiting(wait_us={("gpu", "npu"): 1.0}), "no price of waiting for"),
        (lambda: Problem((Op(()),), FREE), "operator 0 has no way to run"),
        (lambda: Problem((Op((Choice({"gpu": 1.0}, (None,)),), (0,)),), FREE), "all before it"),
        (lambda: Problem((Op((Choice({"gpu": 1.0}, (None,)),)),), FREE), "not as long as"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
