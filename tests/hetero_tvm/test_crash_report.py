"""The report of a fault of ours: what is in it, and where it goes."""

import tempfile

import pytest

from hetero_tvm import crash_report


@pytest.fixture
def error():
    try:
        raise KeyError("an injected fault")
    except KeyError as caught:
        return caught


def test_has_what_a_bug_report_needs_and_no_more(error, monkeypatch):
    monkeypatch.setenv("HETERO_ESTIMATE", "off")
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("HETERO_SERVE_TOKEN", "hunter2")
    monkeypatch.setenv("HETERO_RPC_TOKEN", "hunter2")
    text = crash_report.text(error, ["run", "model.so"])
    assert "hetero-tvm run model.so" in text and "HETERO_ESTIMATE=off" in text
    assert "apache-tvm      0." in text and "test_crash_report.py" in text
    assert "KeyError: 'an injected fault'" in text
    assert "HETERO_SERVE_TOKEN=(not shown)" in text
    assert "hunter2" not in text


def test_goes_beside_the_caches_else_to_the_temporary_folder(error, tmp_path, monkeypatch):
    monkeypatch.setenv("HETERO_CACHE_DIR", str(tmp_path / "cache"))
    first, second = (crash_report.write(error, ["run"]) for _ in range(2))
    assert first.parent == tmp_path / "cache" / "reports" and first != second
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("HETERO_CACHE_DIR", str(file))  # no folder can be made below it
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert crash_report.write(error, ["run"]).parent == tmp_path
    monkeypatch.setattr(tempfile, "tempdir", str(file / "gone"))
    assert crash_report.write(error, ["run"]) is None
