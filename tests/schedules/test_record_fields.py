"""Records have the fields of their type, whoever wrote them."""

import json

import pytest

from schedules.record_fields import TYPES, is_record

WHERE = {"device": "d", "driver": "v", "limits": "l"}
GOOD = {
    "kernel": {"key": "k", "name": "n", "family": "f", "parameters": [[[2, 3], "float32"]]},
    "default": {"key": "k", "where": WHERE, "seconds": None, "good": True, "reason": ""},
    "trial": {"key": "k", "where": WHERE, "choice": {"sketch": "s", "m": [1, 2]}, "seconds": 1.0},
    "verdict": {
        **{"key": "k", "where": WHERE, "choice": {"sketch": "s"}},
        **{"good": False, "reason": "wrong", "scheduled": "h"},
    },
    "race": {"key": "k", "where": WHERE, "choice": {"sketch": "s"}, "seconds": 1, "default": 2.0},
}


@pytest.mark.parametrize("kind", TYPES)
def test_all_fields_are_needed_and_more_may_be_there(kind):
    good = {"type": kind, **GOOD[kind], "at": 1.0}
    assert is_record(good)
    for field in GOOD[kind]:
        assert not is_record({name: value for name, value in good.items() if name != field})
        assert not is_record({**good, field: {"of": "another type"}})


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("race", {"default": 0}),
        ("race", {"seconds": -1.0}),
        ("race", {"seconds": float("nan")}),
        ("race", {"seconds": float("inf")}),
        ("race", {"seconds": True}),
        ("race", {"seconds": 10**400}),
        ("race", {"seconds": None}),
        ("race", {"gain": 1.2, "low": -1.0, "high": 1.3}),
        ("race", {"low": float("nan")}),
        ("race", {"high": float("inf")}),
        ("race", {"high": "much"}),
        ("trial", {"where": {**WHERE, "more": ""}}),
        ("trial", {"where": {**WHERE, "device": 1}}),
        ("trial", {"choice": {"m": [1]}}),
        ("trial", {"choice": {"sketch": "s", "m": [1.5]}}),
        ("trial", {"choice": {"sketch": "s", "m": 1}}),
        ("kernel", {"parameters": [[[-1], "float32"]]}),
        ("kernel", {"parameters": [[[1]]]}),
        ("kernel", {"parameters": [[[1], 32]]}),
        ("kernel", {"type": ["kernel"]}),
    ],
)
def test_values_that_cannot_be(kind, change):
    assert not is_record({"type": kind, **GOOD[kind], **change})


def test_a_race_may_say_what_its_gain_lies_between():
    race = {"type": "race", **GOOD["race"], "gain": 1.2, "low": 1.1, "high": 1.3, "pairs": 40}
    assert is_record(race)


def test_what_is_good_survives_json():
    assert all(is_record(json.loads(json.dumps({"type": k, **v}))) for k, v in GOOD.items())
