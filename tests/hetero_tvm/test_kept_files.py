"""The cache's entries: whole or not there, damage is seen, the oldest go first."""

from __future__ import annotations

import os

import numpy as np

from hetero_tvm.kept_files import KeptFiles, bound


def test_gives_back_what_was_written(tmp_path):
    files = KeptFiles(tmp_path / "part")
    assert files.read("a") is None
    files.write("a", b"content")
    assert files.read("a") == b"content"
    assert [path.name for path in (tmp_path / "part").iterdir()] == ["a.bin"]


def test_without_a_folder_nothing_is_kept():
    files = KeptFiles(None)
    files.write("a", b"content")
    files.write_pages("a", memoryview(b"content"))
    assert files.read("a") is None
    assert files.mapped("a") is None


def test_a_damaged_entry_counts_as_not_there(tmp_path, caplog):
    files = KeptFiles(tmp_path)
    files.write("a", b"content")
    path = files.path("a")
    content = path.read_bytes()
    for damaged in (content[:-1], content[:-1] + b"x", content[:10]):
        path.write_bytes(damaged)
        assert files.read("a") is None
        assert "is damaged" in caplog.text
        caplog.clear()
    path.write_bytes(b"")
    assert files.read("a") is None


def test_pages_are_mapped_and_outlive_their_file(tmp_path):
    files = KeptFiles(tmp_path)
    values = np.arange(10_000, dtype=np.uint8)
    files.write_pages("a", values.data)
    found = files.mapped("a")
    files.path("a").unlink()
    assert np.array_equal(found, values)
    assert found.ctypes.data % 4096 == 0
    assert files.mapped("a") is None


def test_a_folder_that_cannot_be_made_costs_nothing_but_the_entry(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    files = KeptFiles(tmp_path / "file")
    files.write("a", b"content")
    assert "is not kept" in caplog.text
    assert files.read("a") is None


def test_the_oldest_go_until_the_bound_is_kept(tmp_path):
    files = [KeptFiles(tmp_path / part) for part in "xy"]
    for age, (part, name) in enumerate([(0, "new"), (1, "older"), (0, "old"), (1, "oldest")]):
        files[part].write(name, bytes(1000))
        os.utime(files[part].path(name), (1e9 - age, 1e9 - age))

    def left():
        return sorted(path.stem for path in tmp_path.glob("*/*.bin"))

    folders = [tmp_path / "x", tmp_path / "y", tmp_path / "none"]
    bound(folders, 2500, since=1e9 + 1)
    assert left() == ["new", "older"]
    bound(folders, 10, since=1e9)  # what is of use now stays
    assert left() == ["new"]
    files[0].read("new")
    assert files[0].path("new").stat().st_mtime > 1e9
