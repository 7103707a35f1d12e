import pytest

from hetero_tvm import report_tuning
from hetero_tvm.errors import BadInput
from schedules.tuning_db import TuningDb
from schedules.tuning_records import Choice, Kernel, Where, kernel_record, record

WHERE = Where(device="d", driver="1", limits="l")
GOOD, BAD = Choice.of("flat", {"a": [2, 8]}), Choice.of("flat", {"a": [4, 4]})


@pytest.fixture
def db(tmp_path):
    db = TuningDb(tmp_path / "db")
    kernel = Kernel(key="k", name="matmul", family="f", parameters=(((4, 4), "float32"),))
    about = {"key": "k", "where": WHERE}
    trial = {"how": "ok", "error": "", "place": ""}
    verdict = {"error": 0.0, "scheduled": "h"}
    db.append(
        [
            kernel_record(kernel),
            record("default", **about, seconds=4e-6, good=True, reason=""),
            record("trial", **about, choice=BAD, seconds=1e-6, **trial),
            record("trial", **about, choice=GOOD, seconds=2e-6, **trial),
            record("verdict", **about, choice=BAD, good=False, reason="wrong", **verdict),
            record("verdict", **about, choice=GOOD, good=True, reason="", **verdict),
        ]
    )
    return db


def test_rows_say_best_default_gain_and_what_is_wrong(db):
    (row,) = report_tuning.rows(db)
    assert row["default_us"] == pytest.approx(4) and row["best_us"] == pytest.approx(2)
    assert row["gain"] == pytest.approx(2) and row["state"] == "verified"
    assert row["quarantined"] == [{"sketch": "flat", "choices": {"a": [4, 4]}, "why": "wrong"}]


def test_a_gain_is_shown_with_what_it_lies_between(db):
    raced = {"seconds": 2e-6, "default": 2.2e-6, "gain": 1.1, "low": 0.98, "high": 1.25}
    db.append([record("race", "k", WHERE, GOOD, **raced)])
    (row,) = report_tuning.rows(db)
    assert (row["gain"], row["gain_low"], row["gain_high"]) == (1.1, 0.98, 1.25)
    assert row["state"] == "verified" and not row["used"]
    text = report_tuning.table([row], verbose=False)
    assert "1.10 x (0.98 to 1.25)" in text and "verified, not surely faster: not used" in text


def test_the_table_names_device_and_quarantine(db):
    text = report_tuning.table(report_tuning.rows(db), verbose=True)
    assert "d, driver 1, l" in text and "verified, 1 quarantined (wrong)" in text
    assert "quarantined: flat {'a': [4, 4]}: wrong" in text
    assert report_tuning.table([], verbose=False) == "no kernel is recorded"


def test_the_picture(db, tmp_path):
    pytest.importorskip("matplotlib")
    report_tuning.draw(tmp_path / "search.png", db)
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(BadInput, match=r"name a \.png file"):
        report_tuning.draw(tmp_path / "search.jpg", db)
    with pytest.raises(BadInput, match="has no trial"):
        report_tuning.draw(tmp_path / "search.png", TuningDb(tmp_path / "none"))
