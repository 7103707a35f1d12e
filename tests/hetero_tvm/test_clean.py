"""The verb `clean`: what goes, what stays."""

import json
import os
import time

import pytest

from hetero_tvm import clean, cli


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with two parts, a database, and something of somebody else's."""
    monkeypatch.setenv("HETERO_CACHE_DIR", str(tmp_path / "cache"))
    for name, size in {
        "npu/a.bin": 2000,
        "wheels/linux/x/b.whl": 500,
        "tuned/db": 9,
        "x": 7,
    }.items():
        path = tmp_path / "cache" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    return tmp_path / "cache"


def left(cache):
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


def test_removes_what_can_be_made_again(cache, capsys):
    assert cli.main(["clean", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    parts = {row["part"]: row["bytes"] for row in found["parts"] if row["entries"]}
    assert parts == {"npu": 2000, "wheels": 500}
    assert left(cache) == ["tuned/db", "x"]


def test_dry_run_removes_nothing(cache, capsys):
    before = left(cache)
    assert cli.main(["clean", "--dry-run"]) == 0
    assert "0.0 MB would be removed" in capsys.readouterr().out
    assert left(cache) == before


def test_only_this_part_and_only_old_entries(cache):
    week_ago = time.time() - 7 * 24 * 3600
    os.utime(cache / "npu" / "a.bin", (week_ago, week_ago))
    (cache / "npu" / "new.bin").write_bytes(b"new")
    assert cli.main(["clean", "--only", "npu", "--older-than", "6"]) == 0
    assert left(cache) == ["npu/new.bin", "tuned/db", "wheels/linux/x/b.whl", "x"]


def test_links_are_removed_and_not_followed(cache, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    (cache / "npu" / "link").symlink_to(outside)
    (cache / "opencl").symlink_to(outside)
    assert cli.main(["clean"]) == 0
    assert (outside / "mine").read_text() == "mine"
    assert not (cache / "npu" / "link").is_symlink()


def test_an_empty_cache_is_fine(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HETERO_CACHE_DIR", str(tmp_path / "none"))
    assert cli.main(["clean"]) == 0
    assert capsys.readouterr().out.startswith("0.0 MB removed")


@pytest.mark.parametrize("flags", [["--older-than", "-1"], ["--only", "tuned"]])
def test_bad_input_is_one_line(cache, flags, capsys):
    assert cli.main(["clean", *flags]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert "tuned/db" in left(cache)


def test_every_part_is_said_to_be_what(cache):
    assert all(words and not words.endswith(".") for words in clean.PARTS.values())
