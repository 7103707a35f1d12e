import sys
import threading
import time
from pathlib import Path

import numpy as np
import on_gpu
import pytest
import tuning_cases as cases

from schedules.measure import NoDevice, Outcome, Pool
from schedules.trial_process import Place


@pytest.fixture(scope="module")
def pool():
    cases.needs_opencl()
    with Pool([cases.worker()]) as pool:
        yield pool


def _talker(answers: str, name="far", far=True) -> Place:
    """A process that is no tuner: it answers each request with the next of some lines."""
    code = (
        "import sys, time, os, json\n"
        "hello = json.dumps({'device': 'd', 'driver': '1'})\n"
        "sys.stdin.readline(); print(hello, flush=True)\n"
        f"{answers}\n"
    )
    return Place(name, (sys.executable, "-c", code), far=far)


ECHO = (
    "for line in sys.stdin:\n"
    "    {}\n"
    "    print(json.dumps({{'seconds': [0.5], 'beside': []}}), flush=True)"
)


def test_times_and_outputs(pool):
    default = cases.job(cases.addition()).default
    first, second = pool.time([default, default], beside=default)
    assert first.kind == second.kind == "ok"
    assert 0 < first.median < 1 and first.against(1.0) > 0
    x, y = on_gpu.normal(1, 16, 64), on_gpu.normal(2, 16, 64)
    ran = pool.outputs(default, [x, y, np.zeros((16, 64), np.float32)])
    np.testing.assert_allclose(ran.arrays[2], x + y, rtol=1e-6)
    for raced in pool.race([default, default], default):
        assert raced["low"] <= raced["gain"] <= raced["high"] and raced["seconds"] > 0


def test_a_crash_costs_one_trial():
    crash = ECHO.format("if b'bad' in open(json.loads(line)['path'], 'rb').read(): os.abort()")
    with Pool([_talker(crash, far=False)], limit_s=20) as pool:
        requests = [{"do": "x", "path": p} for p in _files(pool, "good", "bad", "good")]
        assert [o.kind for o in pool._all(requests)] == ["ok", "crash", "ok"]
        assert pool.places == ["far"]


def test_a_hang_costs_one_trial_and_its_time():
    hang = ECHO.format("if b'bad' in open(json.loads(line)['path'], 'rb').read(): time.sleep(99)")
    with Pool([_talker(hang, far=False)], limit_s=0.5) as pool:
        start = time.monotonic()
        requests = [{"do": "x", "path": p} for p in _files(pool, "bad", "good")]
        kinds = [o.kind for o in pool._all(requests)]
        assert kinds == ["timeout", "ok"] and time.monotonic() - start < 10


def test_a_lost_device_costs_no_trial(tmp_path):
    """One of two goes away for good in the middle; the other has all trials in the end."""
    gone = tmp_path / "gone"
    once = f"import os, sys\nif os.path.exists({str(gone)!r}): sys.exit(3)\n"
    leave = f"sys.stdin.readline(); open({str(gone)!r}, 'w'); os._exit(1)"
    notes = []
    leaving = Place("leaving", (sys.executable, "-c", once + _code(leave)), far=True)
    with Pool([leaving, _talker(ECHO.format("time.sleep(.05)"))], note=notes.append) as pool:
        outcomes = pool._all([{"do": "x"}] * 12)
        assert [o.kind for o in outcomes] == ["ok"] * 12
        assert pool.places == ["far"]
    assert len(notes) == 1 and "leaving is dropped" in notes[0]


def test_the_last_device_lost_is_said():
    dies = "sys.stdin.readline(); os._exit(1)"
    with Pool([_talker(dies)], limit_s=5) as pool:
        # Every start works and every trial kills it: it is the trials' fault, each has its outcome.
        assert {o.kind for o in pool._all([{"do": "x"}] * 2)} == {"crash"}
    with pytest.raises(NoDevice, match=r"far: its process ended \(exit code 3\): no driver"):
        code = "import sys; print('no driver', file=sys.stderr); sys.exit(3)"
        Pool([Place("far", (sys.executable, "-c", code))])


def test_another_kind_of_device_is_reported():
    other = _code("time.sleep(60)").replace("'device': 'd'", "'device': 'other'")
    notes = []
    places = [_talker(ECHO.format("pass")), Place("odd", (sys.executable, "-c", other))]
    with Pool(places, note=notes.append) as pool:
        assert pool.places == ["far"]
    assert "odd is other with driver 1, not d with 1: not used" in notes[0]


def test_devices_work_side_by_side():
    slow = ECHO.format("time.sleep(.2)")
    with Pool([_talker(slow, name) for name in "abc"]) as pool:
        start = time.monotonic()
        pool._all([{"do": "x"}] * 12)
        assert time.monotonic() - start < 12 * 0.2 / 2  # twelve one after the other take 2.4 s


def test_ctrl_c_ends_the_processes():
    with Pool([_talker(ECHO.format("time.sleep(60)"))]) as pool:
        process = pool._workers[0].process
        threading.Timer(0.5, _interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            pool._all([{"do": "x"}])
        assert process.wait(timeout=10) < 0


def test_failed_outcomes_are_endless():
    assert Outcome(kind="crash").median == float("inf")
    assert Outcome(seconds=(2.0,), beside=(4.0,)).against(1.0) == 0.5


def _interrupt():
    import _thread

    _thread.interrupt_main()


def _code(answers: str) -> str:
    return _talker(answers).command[2]


def _files(pool, *contents):
    paths = []
    for content in contents:
        path = pool._path("txt")
        Path(path).write_text(content)
        paths.append(path)
    return paths
