"""A session's folder, and a process that cannot leave it."""

import hashlib
import subprocess
import sys

import pytest

from hetero_tvm.device_session import Folder
from hetero_tvm.errors import BadInput

DATA = b"a model" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    return Folder(tmp_path / "root")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "link/outside", ".", "", "a/../.."])
def test_nothing_outside_is_named(folder, name):
    with pytest.raises(BadInput, match="is not in the session's folder"):
        folder.path(name)


def test_files_arrive_in_pieces_and_are_checked(folder, tmp_path):
    assert folder.size(DIGEST, "m.so") == 0
    folder.append(DIGEST, "m.so", 0, DATA[:500])
    assert folder.size(DIGEST, "m.so") == 500
    with pytest.raises(BadInput, match="500 bytes are here, not 0"):
        folder.append(DIGEST, "m.so", 0, DATA)
    folder.append(DIGEST, "m.so", 500, DATA[500:])
    assert folder.finish(DIGEST, "m.so") == f"{DIGEST}/m.so"
    assert folder.size(DIGEST, "m.so") == -1
    assert (tmp_path / "root" / DIGEST / "m.so").read_bytes() == DATA


def test_what_arrived_damaged_is_thrown_away(folder):
    folder.append(DIGEST, "m.so", 0, DATA + b"x")
    with pytest.raises(BadInput, match="arrived damaged"):
        folder.finish(DIGEST, "m.so")
    assert folder.size(DIGEST, "m.so") == 0


@pytest.mark.parametrize(("digest", "name"), [("x", "m.so"), (DIGEST, "../m"), (DIGEST, "")])
def test_names_that_are_none(folder, digest, name):
    with pytest.raises(BadInput, match="no name of a file here"):
        folder.size(digest, name)


def test_a_confined_process_writes_nowhere_else(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "old").write_text("old")
    code = f"""
import os, subprocess, sys
from pathlib import Path
from hetero_tvm.device_session import confine
if not confine(Path({str(inside)!r})):
    sys.exit(77)
Path({str(inside / "new")!r}).write_text("new")
open("/dev/null", "w").write("x")
print(Path({str(outside / "old")!r}).read_text())
for act in (
    lambda: Path({str(outside / "new")!r}).write_text("new"),
    lambda: Path({str(outside / "old")!r}).write_text("new"),
    lambda: os.unlink({str(outside / "old")!r}),
    lambda: os.rename({str(inside / "new")!r}, {str(outside / "moved")!r}),
):
    try:
        act()
    except OSError:
        continue
    sys.exit(1)
sys.exit(subprocess.run(["sh", "-c", "echo x > {outside / "child"}"]).returncode == 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this kernel has no Landlock")
    assert (done.returncode, done.stdout) == (0, "old\n"), done.stderr
    assert sorted(path.name for path in outside.iterdir()) == ["old"]
