"""The high-water mark is this program's own."""

import subprocess
import sys

from hetero_tvm import memory

CODE = "from hetero_tvm.memory import peak_bytes; print(peak_bytes())"


def test_grows_with_what_is_used():
    before = memory.peak_bytes()
    block = bytearray(before + (64 << 20))
    block[::4096] = b"x" * len(block[::4096])
    assert memory.peak_bytes() >= before + (64 << 20)


def test_a_child_does_not_report_its_parents():
    block = bytearray(256 << 20)
    block[::4096] = b"x" * len(block[::4096])
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert 1 << 20 < int(done.stdout) < 128 << 20
