"""Ctrl-C in the middle of a build: one line, the shell's exit code, nothing left behind."""

import signal
import subprocess
import sys
import time


def test_interrupted_build_leaves_nothing(model_path, tmp_path):
    command = [sys.executable, "-m", "hetero_tvm.build", str(model_path("minilm")), "-t", "host"]
    command += ["-o", str(tmp_path / "m.so"), "--input", "input_ids=1x128"]
    command += ["--input", "attention_mask=1x128"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:  # plain progress lines: one when a phase is done
        lines.append(line)
        if line.split()[0] == "import":
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130, "".join(lines) + rest
    assert "interrupted; nothing was left half-written" in rest
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
