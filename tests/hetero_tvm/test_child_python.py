"""A child finds what this process can import."""

import subprocess
import sys

from hetero_tvm import child_python


def test_a_child_imports_what_this_process_can(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("print('found')")
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    monkeypatch.setenv("MARK", "kept")
    program = "import only_here, os, hetero_tvm; print(os.environ['MARK'])"
    command = [sys.executable, "-c", program]
    said = subprocess.check_output(
        command, text=True, cwd=tmp_path.parent, env=child_python.environment()
    )
    assert said.split() == ["found", "kept"]
