"""The verb `profile`: text, JSON, the trace file, and what is refused."""

import json

import pytest
from recorded_model import artefact

from hetero_tvm import cli


def test_json_and_trace(hetero, tmp_path):
    path = tmp_path / "t.json"
    done = hetero("profile", artefact(), "--runs", "3", "--trace", path, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["verb"] == "profile" and done.json["runs"] == 3
    summary = done.json["summary"]
    assert 0 < summary["busy_us"]["gpu"] < summary["run_us"]
    assert summary["calls"][0]["call"]["operators"]
    assert done.json["plain_run_us"] > 0
    assert done.json["provenance"] == "measured"
    assert json.loads(path.read_text())["traceEvents"]
    assert "ui.perfetto.dev" in done.stderr


def test_text(capsys):
    assert cli.main(["profile", str(artefact()), "--runs", "2"]) == 0
    said = capsys.readouterr().out
    for word in ("overlap", "GPU idle", "NPU idle", "matmul", "% of ", "GFLOP/s"):
        assert word in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--runs", "0"], "--runs 0: at least 1"),
        (["--seed", "-1"], "--seed -1: at least 0"),
        (["--trace", "/no/such/folder/t.json"], "--trace /no/such/folder/t.json: the folder"),
        (["--length", "3"], "built without --length"),
    ],
)
def test_bad_input(capsys, flags, said):
    assert cli.main(["profile", str(artefact()), *flags]) == 2
    assert said in capsys.readouterr().err


def test_no_artefact(capsys, tmp_path):
    assert cli.main(["profile", str(tmp_path / "none.so")]) == 2
    assert "no such file" in capsys.readouterr().err
