"""`tune --to` on a folder of this machine: what is measured there is known here."""

import json
import os
import signal
import subprocess
import sys

import pytest
import tiny_models

from hetero_tvm import cli
from hetero_tvm.candidates import there
from hetero_tvm.errors import DeviceLacks
from hetero_tvm.transports.local import Local
from schedules.tuning_db import TuningDb

pytest.importorskip("xgboost")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_models.mlp(tmp_path_factory.mktemp("model") / "model.onnx")


def words(model, folder, *more):
    search = ["--target", "host", "--devices", "gpu", "--only", "first", "--db", folder / "db"]
    return [str(word) for word in ["tune", model, *search, "--to", f"local:{folder}/there", *more]]


def left(folder):
    return [path for path in (folder / "there").rglob("*") if path.is_file()]


def test_what_is_measured_there_is_known_here_and_the_next_round_goes_on(model, tmp_path, capsys):
    assert cli.main([*words(model, tmp_path, "--trials", 2), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["kernels"]
    assert (row["trials"], row["failed"]) == (2, 0) and row["default_us"] > 0
    assert row["default_good"] and left(tmp_path) == []
    # Verified on the device: an untouched build with these records may use them there.
    ((_, where),) = TuningDb(tmp_path / "db").standings()
    assert where.device == row["device"] and where.driver
    assert cli.main(words(model, tmp_path, "--trials", 3, "--json")) == 0
    (row,) = json.loads(capsys.readouterr().out)["kernels"]
    assert row["trials"] == 3
    assert cli.main(words(model, tmp_path, "--trials", 3)) == 0  # nothing is left to do
    assert "verified" in capsys.readouterr().out


def test_ctrl_c_brings_back_what_is_finished(model, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "hetero_tvm", *words(model, tmp_path, "--trials", 40)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        said = ""
        while "2 of " not in said:
            said = process.stderr.readline() or pytest.fail("it ended")
        os.killpg(process.pid, signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 130 and "The same command goes on" in rest, rest
    ((_, standing),) = TuningDb(tmp_path / "db").standings().items()
    assert 1 <= len(standing.trials) < 40
    assert not list((tmp_path / "there").rglob("results.json"))


def test_what_an_earlier_run_could_not_bring_back_is_taken_in(model, tmp_path, monkeypatch, capsys):
    take = there.Bench._take
    monkeypatch.setattr(there.Bench, "_take", lambda *_: pytest.fail("the line broke"))
    with pytest.raises(BaseException, match="the line broke"):
        cli.main(words(model, tmp_path, "--trials", 2))
    monkeypatch.setattr(there.Bench, "_take", take)
    assert cli.main(words(model, tmp_path, "--trials", 2)) == 0
    assert "2 results of an earlier run were still there" in capsys.readouterr().err


def test_results_of_others_are_left_aside(model, tmp_path, capsys):
    bench = there.Bench(Local(tmp_path / "there"), None, tmp_path / "db", tmp_path)
    results = {"format": 1, "id": "ab", "device": "x", "driver": "y", "results": {}, "races": {}}
    (tmp_path / "db").mkdir()
    at = next((tmp_path / "there" / "tune").iterdir())
    (at / "results.json").write_text(json.dumps(results))
    assert bench.left_behind(TuningDb(tmp_path / "db")) is None
    assert "were not emitted with the database" in capsys.readouterr().err
    assert [path.name for path in at.iterdir()] == ["results.refused.json"]


def test_a_device_without_python_or_opencl(tmp_path, monkeypatch):
    device = Local(tmp_path / "there")
    monkeypatch.setattr(device, "environment", lambda: {"HETERO_OPENCL_FALLBACK_LIB": "none.so"})
    bench = there.Bench(device, None, tmp_path / "db", tmp_path)
    monkeypatch.setattr(there, "_NO_OPENCL", 99)
    monkeypatch.setattr(bench, "_run", lambda _: "echo 'no OpenCL library' >&2; exit 3")
    with pytest.raises(DeviceLacks, match=r"no OpenCL to measure on: no OpenCL library"):
        bench.device()
    monkeypatch.setattr(device, "argv", lambda command: ["sh", "-c", f"PATH=/nowhere; {command}"])
    monkeypatch.setattr(device, "check", lambda command, **_: "/x")
    with pytest.raises(DeviceLacks, match=r"needs Python 3\.9 or newer as python3, and has none"):
        there.Bench(device, None, tmp_path / "db", tmp_path)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--device", "rpc://h:1"], "--device does not go with --to"),
        (["--emit", "c.tar"], "--emit does not go with --to"),
        (["--budget", "5m"], "--budget does not go with --to"),
        (["--to", "rpc://127.0.0.1:1"], "a device server runs models; tune over ssh or adb"),
        (["--to", "nowhere"], "--to nowhere: one of"),
    ],
)
def test_flags_that_do_not_go_together(model, tmp_path, capsys, more, said):
    assert cli.main(words(model, tmp_path, *more)) == 2
    assert said in capsys.readouterr().err
