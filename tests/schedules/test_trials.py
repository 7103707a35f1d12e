import json
import subprocess
import sys

import numpy as np
import on_gpu
import tuning_cases as cases
from tvm import ir

from hetero_tvm import runtime
from schedules import trials
from schedules.trials import Server, TrialDevice, hash_of, parameters, plain, written


def _server():
    return Server(TrialDevice(None, on_gpu.device(), runtime.sync), cases.TARGET)


def _file(tmp_path, mod):
    path = tmp_path / "kernel.json"
    path.write_text(ir.save_json(mod))
    return str(path)


def test_parameters_and_results():
    func = plain(cases.product())
    assert parameters(func)[0] == ((24, 40), "float32")
    assert written(func) == [2]


def test_a_kernel_is_the_same_by_any_name():
    func = cases.product()
    assert hash_of(plain(func)) == hash_of(plain(func.with_attr("hetero.ops", ["other"])))
    assert hash_of(plain(func)) != hash_of(plain(cases.addition()))


def test_times_alone_and_in_turns(tmp_path):
    server, path = _server(), _file(tmp_path, cases.job(cases.addition()).default)
    alone = server.time(path, 0.01, None, None)
    assert len(alone["seconds"]) == 5 and min(alone["seconds"]) > 0
    both = server.time(path, 0.01, None, path)
    assert len(both["beside"]) == 5
    slow = server.time(path, 0.01, 1e-12, None)
    assert len(slow["seconds"]) == 1
    for raced in server.race([path, path], path, 0.5)["raced"]:
        assert raced["low"] <= raced["gain"] <= raced["high"] and raced["pairs"] >= 8


def test_outputs_are_those_of_the_kernel(tmp_path):
    path = _file(tmp_path, cases.job(cases.addition()).default)
    x, y = on_gpu.normal(1, 16, 64), on_gpu.normal(2, 16, 64)
    given, result = str(tmp_path / "in.npz"), str(tmp_path / "out.npz")
    np.savez(given, a0=x, a1=y, a2=np.full((16, 64), -3e38, np.float32))
    _server().outputs(path, given, result)
    with np.load(result) as arrays:
        np.testing.assert_allclose(arrays["a2"], x + y, rtol=1e-6)


def test_an_error_is_an_answer(tmp_path):
    """And the end of the requests is the end of the process."""
    code = (
        "import io, sys\n"
        "from schedules.trials import Server, serve\n"
        "serve(Server(None, None), sys.stdin, sys.stdout)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps({"do": "time", "path": "/nowhere", "at_least_s": 1}) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    # The last answer may be lost when the asker is gone; what was written is one error.
    for line in done.stdout.splitlines():
        assert "error" in json.loads(line)


class _Broken:
    @property
    def exist(self):
        raise RuntimeError("socket closed")


def test_a_broken_connection_is_known():
    assert TrialDevice(None, _Broken(), None).is_there()
    assert not TrialDevice("session", _Broken(), None).is_there()


def test_long_errors_are_cut():
    assert len(trials._short("x" * 10_000)) <= 400
    assert trials._short("a\n\nb\nc\nd") == "b | c | d"
