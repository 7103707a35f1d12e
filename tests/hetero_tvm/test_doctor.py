"""The verb `doctor`: lines, JSON, exit codes."""

import json

import pytest

from hetero_tvm import cli, doctor
from hetero_tvm.doctor_checks import DEVICE, Result

FINE = Result(name="a", status="ok", words="fine")
WARNED = Result(name="b", status="warn", words="old", fix="renew it")
MISSING = Result(name="c", status="FAIL", words="gone", fix="install it")
WRONG = Result(name="d", status="FAIL", words="wrong", fix="repair it", exit_code=DEVICE)


@pytest.mark.parametrize(
    ("results", "code", "last"),
    [
        ([FINE, FINE], 0, "all is well: 2 checks"),
        ([FINE, WARNED], 0, "all is well: 2 checks, 1 warnings"),
        ([FINE, WRONG], 4, "1 of 2 checks failed, 0 warnings"),
        ([WRONG, WARNED, MISSING], 3, "2 of 3 checks failed, 1 warnings"),
    ],
)
def test_exit_codes(capsys, monkeypatch, results, code, last):
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter(results),))
    assert cli.main(["doctor"]) == code
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == last
    assert all(f"fix: {r.fix}" in said for r in results if r.fix)
    assert cli.main(["doctor", "--json"]) == code
    data = json.loads(capsys.readouterr().out)
    assert data["exit_code"] == code
    assert [r["status"] for r in data["results"]] == [r.status for r in results]


def test_quiet_says_what_is_wrong_only(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([FINE, MISSING]),))
    assert cli.main(["doctor", "-q"]) == 3
    said = capsys.readouterr().out
    assert "gone" in said and "fine" not in said


def test_quick_looks_at_this_machine(capsys):
    assert cli.main(["doctor", "--quick", "--json"]) == 0
    names = [r["name"] for r in json.loads(capsys.readouterr().out)["results"]]
    assert "packages" in names and not any(name.startswith("OpenCL") for name in names)


@pytest.mark.nightly
def test_all_of_it(hetero):
    done = hetero("doctor", "--json")
    assert done.returncode == 0, done.stdout
    names = [r["name"] for r in done.json["results"]]
    assert {"OpenCL 0", "NPU stand-in", "split product"} <= set(names)
    assert names[-1] == "split product"
