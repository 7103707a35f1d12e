import multiprocessing
import os
import signal
import time

import pytest
import tuning_cases as cases

from schedules.tuning_db import FILE, DbRefused, TuningDb
from schedules.tuning_records import Choice, Where, describe, kernel_record, record

HERE = Where(device="d", driver="1", limits="l")
ELSEWHERE = Where(device="d", driver="2", limits="l")
FAST = Choice.of("flat", {"lanes0": [1, 16], "work0": [4, 1, 4]})
SLOW = Choice.of("flat", {"lanes0": [4, 4], "work0": [4, 1, 4]})


def _trial(choice=FAST, seconds=1e-3, key="k", where=HERE):
    return record("trial", key, where, choice, seconds=seconds, how="ok", error="", place="p")


def _verdict(choice=FAST, good=True, key="k", where=HERE, reason=""):
    return record("verdict", key, where, choice, good=good, reason=reason, error=0.0, scheduled="h")


def _default(seconds=2e-3, key="k", where=HERE, good=True):
    return record("default", key, where, seconds=seconds, good=good, reason="")


def _again(folder, **more):
    return TuningDb(folder, **more)


def test_what_was_written_is_read(tmp_path):
    db = TuningDb(tmp_path / "db")
    db.append([_default(), _trial(), _trial(SLOW, 3e-3), _verdict()])
    (standing,) = _again(tmp_path / "db").standings().values()
    assert standing.best() == (FAST, 1e-3, "h")
    assert standing.gain == 2.0 and [c for c, _ in standing.trials] == [FAST, SLOW]


def test_devices_and_drivers_are_apart(tmp_path):
    db = TuningDb(tmp_path)
    db.append(
        [_trial(), _verdict(), _trial(where=ELSEWHERE), _verdict(where=ELSEWHERE, good=False)]
    )
    assert db.standings()["k", HERE].best() is not None
    assert db.standings()["k", ELSEWHERE].best() is None


def test_a_line_cut_short_is_dropped(tmp_path):
    TuningDb(tmp_path).append([_trial(), _trial(SLOW)])
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-20])
    told = []
    db = _again(tmp_path, tell=told.append, write=True)
    assert len(db.records) == 1 and "cut short" in told[0]
    db.append([_trial(SLOW)])
    told.clear()
    assert len(_again(tmp_path, tell=told.append).records) == 2 and not told


def test_damage_is_set_aside_and_the_rest_kept(tmp_path):
    TuningDb(tmp_path).append([_trial(), _trial(SLOW), _verdict()])
    path = tmp_path / FILE
    damaged = path.read_bytes().replace(b'"lanes0": [4, 4]', b'"lanes0": [4, 5]')
    path.write_bytes(damaged)
    told = []
    assert len(_again(tmp_path, tell=told.append).records) == 2
    assert path.read_bytes() == damaged and "1 damaged lines are left out" in told[0]
    assert len(_again(tmp_path, tell=told.append, write=True).records) == 2
    assert (tmp_path / "records.damaged-1.jsonl").read_bytes() == damaged
    assert "is kept as records.damaged-1.jsonl, and 2 whole records are used" in told[1]
    assert len(_again(tmp_path, tell=told.append).records) == 2 and len(told) == 2


def test_another_version_is_refused_or_set_aside(tmp_path):
    TuningDb(tmp_path).append([_trial()])
    path = tmp_path / FILE
    from schedules import tuning_records

    text = tuning_records.line_of({"format": tuning_records.HEADER, "version": 99})
    path.write_bytes(text)
    with pytest.raises(DbRefused, match="format 99, this program reads 1; it is left as it is"):
        _again(tmp_path)
    assert path.read_bytes() == text
    told = []
    _again(tmp_path, tell=told.append, write=True).append([_trial()])
    (line,) = told
    assert "format 99, this program reads 1; the file is kept as records.other-version-1" in line
    assert (tmp_path / "records.other-version-1.jsonl").read_bytes() == text
    assert len(_again(tmp_path).records) == 1
    with pytest.raises(DbRefused, match="format 99"):
        TuningDb(tmp_path).merge(tmp_path / "records.other-version-1.jsonl")


def test_other_files_are_refused_and_left(tmp_path):
    path = tmp_path / FILE
    path.write_text("hello\n")
    with pytest.raises(DbRefused, match="no tuning records of hetero_tvm"):
        _again(tmp_path, write=True)
    assert path.read_text() == "hello\n"
    with pytest.raises(DbRefused, match="is a file"):
        TuningDb(path)


def _write_forever(folder):
    db = TuningDb(folder)
    for number in range(100_000):
        db.append([_trial(seconds=float(number + 1))])


def test_kill_loses_nothing_that_was_written(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_write_forever, args=(tmp_path,))
    process.start()
    time.sleep(0.7)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    seconds = [entry["seconds"] for entry in TuningDb(tmp_path, write=True).records]
    assert seconds and seconds == [float(n + 1) for n in range(len(seconds))]


def test_two_writers_do_not_mix_lines(tmp_path):
    context = multiprocessing.get_context("fork")
    TuningDb(tmp_path).append([_trial()])
    writers = [context.Process(target=_write_some, args=(tmp_path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    told = []
    assert len(TuningDb(tmp_path, tell=told.append).records) == 61 and not told


def _write_some(folder):
    db = TuningDb(folder)
    for _ in range(30):
        db.append([_trial()])


def test_export_and_merge(tmp_path):
    db = TuningDb(tmp_path / "a")
    db.append([kernel_record(describe("add", cases.addition()))])
    db.append([_default(), _trial(FAST), _trial(SLOW), _verdict(FAST)])
    assert db.export(tmp_path / "out.jsonl") == 4  # the trial that nobody judged stays
    other = TuningDb(tmp_path / "b")
    assert other.merge(tmp_path / "out.jsonl") == 4
    assert other.merge(tmp_path / "out.jsonl") == 0
    assert other.standings()["k", HERE].best()[0] == FAST
    assert TuningDb(tmp_path / "c").merge(tmp_path / "a") == 5
    with pytest.raises(DbRefused, match="no database"):
        other.merge(tmp_path / "nowhere")


def test_neighbours_are_the_nearest_of_the_family(tmp_path):
    db = TuningDb(tmp_path)
    near, far = describe("p", cases.product(48)), describe("p", cases.product(192))
    other = describe("a", cases.addition())
    for kernel, choice in ((near, FAST), (far, SLOW), (other, SLOW)):
        key = kernel.key
        db.append([kernel_record(kernel), _trial(choice, key=key), _verdict(choice, key=key)])
    assert db.neighbours(describe("p", cases.product()), HERE) == [FAST, SLOW]
    assert db.neighbours(near, HERE) == [SLOW]
