import dataclasses

import tuning_cases as cases
from tvm.target import Target

from schedules.search_space import seeds, space_of
from schedules.trials import plain, scheduled_hash
from schedules.tuned import Tuned, pick, wrong_default
from schedules.tuning_db import TuningDb
from schedules.tuning_records import Choice, Where, describe, record

WHERE = Where(device="d", driver="1", limits=cases.LIMIT.text)


def _db(folder, gain=2.0, scheduled=None, good=True, where=WHERE):
    func = cases.product()
    space = space_of(plain(func), cases.LIMIT)
    sch = space.draw(*seeds(space.func, cases.LIMIT)[2])
    choice = Choice.of(*space.decisions(sch.trace))
    key = describe("", func).key
    db = TuningDb(folder)
    db.append(
        [
            record("default", key, where, seconds=gain * 1e-3, good=True, reason=""),
            record("trial", key, where, choice, seconds=1e-3, how="ok", error="", place=""),
            record(
                "verdict",
                key,
                where,
                choice,
                good=good,
                reason="",
                error=0.0,
                scheduled=scheduled or scheduled_hash(sch),
            ),
        ]
    )
    return db, key


def _use(db, key, here=("d", "1")):
    rule = Tuned({key: pick(db, key, cases.LIMIT, here)}, cases.LIMIT)
    answer = rule.apply(cases.product(), cases.TARGET)
    (use,) = rule.uses
    assert use.tuned == (answer is not None)
    return answer, use


def test_a_verified_record_is_used(tmp_path):
    answer, use = _use(*_db(tmp_path))
    assert "2.00 x the default on d" in use.why
    # Its name is the function's own, so that many can be in one module.
    assert "global_symbol" not in answer.mod["main"].attrs
    plain_data = use.to_dict()
    assert plain_data["schedule"] == "tuned" and plain_data["driver"] == "1"


def test_what_a_gain_lies_between_is_said(tmp_path):
    db, key = _db(tmp_path)
    ((_, where),) = db.standings()
    (choice,) = (choice for choice, _ in db.standings()[key, where].trials)
    raced = {"seconds": 1e-3, "default": 1.2e-3, "gain": 1.2, "low": 1.12, "high": 1.25}
    db.append([record("race", key, where, choice, **raced)])
    answer, use = _use(db, key)
    assert answer is not None and use.why == "1.20 x (1.12 to 1.25) the default on d"
    assert use.to_dict()["gain_between"] == [1.12, 1.25]
    db.append([record("race", key, where, choice, **{**raced, "low": 0.99})])
    assert _use(db, key)[0] is None


def test_another_driver_is_not_used(tmp_path):
    answer, use = _use(*_db(tmp_path), here=("d", "2"))
    assert answer is None and use.why == "not tuned on d with driver 2"


def test_a_device_that_is_not_here_goes_by_its_limits(tmp_path):
    db, key = _db(tmp_path)
    assert pick(db, key, cases.LIMIT, None)[0] is not None
    other = dataclasses.replace(cases.LIMIT, items=128)
    assert pick(db, key, other, None) == (None, "not tuned for these limits")


def test_what_is_no_better_or_not_verified_is_not_used(tmp_path):
    assert _use(*_db(tmp_path / "a", gain=1.0))[0] is None
    answer, use = _use(*_db(tmp_path / "b", good=False))
    assert answer is None and "1 quarantined" in use.why


def test_a_record_of_other_schedules_is_refused(tmp_path):
    answer, use = _use(*_db(tmp_path, scheduled="0" * 16))
    assert answer is None and use.why == "its record is of another version of the schedules"
    assert use.to_dict()["schedule"] == "default"


def test_only_opencl_kernels_are_asked_about():
    assert Tuned({}, cases.LIMIT).apply(cases.product(), Target("llvm")) is None


def test_a_wrong_default_is_known(tmp_path):
    db, key = _db(tmp_path)
    assert wrong_default(db, key, cases.LIMIT, ("d", "1")) is None
    db.append([record("default", key, WHERE, seconds=None, good=False, reason="crash: x")])
    assert wrong_default(db, key, cases.LIMIT, ("d", "1")) == "crash: x"
