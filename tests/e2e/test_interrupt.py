"""Ctrl-C or a kill in the middle of a build: one line, the right exit code, nothing left behind."""

import signal
import subprocess
import sys
import time

import pytest


@pytest.mark.parametrize("phase", ["import", "codegen"])  # the next one is cut short
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_build_leaves_nothing(model_path, tmp_path, phase, number, code):
    command = [sys.executable, "-m", "hetero_tvm.build", str(model_path("minilm")), "-t", "host"]
    command += ["-o", str(tmp_path / "m.so"), "--input", "input_ids=1x128", "--no-check"]
    command += ["--input", "attention_mask=1x128"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:  # plain progress lines: one when a phase is done
        lines.append(line)
        if line.strip().startswith(phase):
            break
    if phase == "codegen":  # linking now: wait until there is something half-written
        while not list(tmp_path.iterdir()):
            time.sleep(0.01)
    process.send_signal(number)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == code, "".join(lines) + rest
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
