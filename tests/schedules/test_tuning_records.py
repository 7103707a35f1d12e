import json

import pytest
import tuning_cases as cases

from schedules.tuning_records import (
    Choice,
    Standing,
    Where,
    add,
    describe,
    header_line,
    kernel_record,
    line_of,
    read_line,
    record,
    whole_lines,
)

HERE = Where(device="d", driver="1", limits="l")
FAST = Choice.of("flat", {"lanes0": [1, 16], "work0": [4, 1, 4]})
SLOW = Choice.of("flat", {"lanes0": [4, 4], "work0": [4, 1, 4]})


def _trial(choice, seconds):
    return record("trial", "k", HERE, choice, seconds=seconds, how="ok", error="", place="p")


def _verdict(choice, good=True, reason=""):
    return record("verdict", "k", HERE, choice, good=good, reason=reason, error=0.0, scheduled="h")


def _race(choice, seconds, default, **more):
    return record("race", "k", HERE, choice, seconds=seconds, default=default, **more)


def _standing(*records):
    standing = Standing(key="k", where=HERE)
    add(standing, record("default", "k", HERE, seconds=2e-3, good=True, reason=""))
    for entry in records:
        add(standing, entry)
    return standing


def test_only_what_is_verified_is_best():
    records = [_trial(FAST, 1e-3), _trial(SLOW, 3e-3), _verdict(SLOW)]
    assert _standing(*records).best() == (SLOW, 3e-3, "h")
    standing = _standing(*records, _verdict(FAST, good=False, reason="wrong"))
    assert standing.best()[0] == SLOW
    assert standing.quarantined() == [(FAST, "wrong")]


def test_a_race_says_the_gain():
    records = [_trial(FAST, 1e-3), _verdict(FAST)]
    assert _standing(*records).gain == 2.0
    assert _standing(*records, _race(FAST, 1.0, 1.5)).gain == 1.5


def test_a_gain_that_is_not_sure_is_no_reason_to_leave_the_default():
    records = [_trial(FAST, 1e-3), _verdict(FAST)]
    assert _standing(*records).is_better
    sure = _standing(*records, _race(FAST, 1.0, 1.2, gain=1.19, low=1.02, high=1.3))
    assert sure.is_better and sure.gain == 1.19
    unsure = _standing(*records, _race(FAST, 1.0, 1.2, gain=1.19, low=1.0, high=1.3))
    assert not unsure.is_better and unsure.race.high == 1.3
    slight = _standing(*records, _race(FAST, 1.0, 1.0, gain=1.008, low=1.004, high=1.01))
    assert not slight.is_better
    wrong = _standing(*records, _race(FAST, 1.0, 0.5, gain=0.5, low=0.4, high=0.6))
    wrong.default_good = False
    assert wrong.is_better


def test_of_two_races_the_one_that_is_at_least_faster():
    standing = _standing(
        *(_trial(FAST, 1e-3), _trial(SLOW, 3e-3), _verdict(FAST), _verdict(SLOW)),
        _race(FAST, 1.0, 1.3, gain=1.3, low=0.9, high=1.6),
        _race(SLOW, 1.0, 1.1, gain=1.1, low=1.08, high=1.12),
    )
    assert standing.best()[0] == SLOW and standing.gain == 1.1


def test_races_count_more_than_trials():
    """A trial at a quiet moment looked faster than it is."""
    standing = _standing(
        *(_trial(FAST, 1e-3), _trial(SLOW, 3e-3), _verdict(FAST), _verdict(SLOW)),
        *(_race(FAST, 2.0, 1.0), _race(SLOW, 0.8, 1.0)),
    )
    assert standing.best()[0] == SLOW and standing.gain == 1.25
    assert standing.fastest_s == 1e-3


def test_what_failed_is_endless():
    standing = _standing(_trial(FAST, None))
    assert standing.failed == 1 and standing.trials == [(FAST, float("inf"))]
    assert standing.best() is None and standing.gain is None


def test_lines():
    entry = _trial(FAST, 1e-3)
    line = line_of(entry)
    assert read_line(line) == entry
    assert read_line(line.replace(b"0.001", b"0.002")) is None
    assert read_line(line_of({**entry, "type": "unknown"})) is None
    assert whole_lines(header_line() + line[:-3]) == ([header_line()[:-1]], True)


@pytest.mark.parametrize("factors", [[1, 16], (1, 16)])
def test_choices_compare_by_what_they_say(factors):
    assert Choice.of("flat", {"work0": [4, 1, 4], "lanes0": factors}) == FAST
    assert FAST.as_dict == {"lanes0": [1, 16], "work0": [4, 1, 4]}


def test_keys_are_of_what_a_kernel_does():
    func = cases.product()
    assert describe("a", func).key == describe("b", func.with_attr("hetero.ops", ["z"])).key
    assert describe("a", func).key != describe("a", cases.product(48)).key
    assert json.dumps(kernel_record(describe("a", func)))
