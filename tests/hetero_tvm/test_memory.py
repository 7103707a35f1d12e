"""The high-water mark is this program's own; what is freed is free."""

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np

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


HELD = """
import numpy as np
from hetero_tvm import memory
memory.give_back_large()
kept = []
for _ in range(40):  # without it glibc puts the later ones into its heap, between what is kept
    large = np.ones(5 << 20, np.uint8)
    kept.append(np.ones(64 << 10, np.uint8))
    del large
status = open("/proc/self/status").read()
print(int(status.split("RssAnon:")[1].split()[0]) >> 10)
"""


def test_large_blocks_are_given_back_and_pages_forgotten(tmp_path):
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64  # MiB
    file = tmp_path / "weights"
    np.ones(64 << 20, np.uint8).tofile(file)
    mapped = np.memmap(file, np.uint8, "r")
    assert mapped[::4096].sum() == 16384
    before = _mapped_mib(file)
    memory.forget_pages(mapped[100:])
    assert before == 64
    assert _mapped_mib(file) == 0
    assert mapped[-1] == 1  # read again
    private = np.memmap(file, np.uint8, "c")
    assert private[::4096].sum() == 16384
    memory.forget_pages(private)
    assert _mapped_mib(file) == 0
    memory.forget_pages(np.ones(3))  # nothing to do


def test_mapped_pages_are_forgotten_by_file_and_offset(tmp_path):
    file = tmp_path / "artefact"
    np.ones(8 << 20, np.uint8).tofile(file)
    read = np.memmap(file, np.uint8, "r", 4 << 20)
    assert read.sum() == 4 << 20
    memory.forget_spans(memory.mapped_spans(file, 5 << 20))
    assert _mapped_mib(file) == 4  # it begins before that
    memory.forget_spans(memory.mapped_spans(file, 1 << 20))
    assert _mapped_mib(file) == 0
    assert read[-1] == 1  # read again
    del read
    written = np.memmap(file, np.uint8, "c")
    written[5 << 20] = 7
    memory.forget_spans(memory.mapped_spans(file, 0))
    assert written[5 << 20] == 7  # what was written is not lost
    memory.forget_spans(memory.mapped_spans(tmp_path / "another", 0))


def _mapped_mib(file):
    """MiB of `file` that are in this process's memory."""
    lines = (Path("/proc/self/smaps")).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.endswith(str(file)))
    resident = next(line for line in lines[start:] if line.startswith("Rss:"))
    return int(resident.split()[1]) >> 10


def test_python_looks_for_cycles_seldom_and_then_as_before():
    before = gc.get_threshold()
    with memory.few_collections():
        assert gc.get_threshold()[0] > 10 * before[0]
    assert gc.get_threshold() == before
