"""Measuring in another process: what comes back, and what is said when nothing does."""

import sys

import pytest

from hetero_tvm.errors import EnvironmentProblem
from hetero_tvm.measure_host import measure_apart

# Python runs it first in every process: there, measuring takes no time.
_IN_NO_TIME = """
from hetero_tvm import host_bench
host_bench.memory_gbps = lambda budget_s: (11.0, 12.0)
host_bench.chains_us = lambda case, spec, devices, *args, **more: dict.fromkeys(devices, 100.0)
host_bench.slowdown = lambda *args, **more: {"gpu": 0.5, "npu": 0.25}
waits = {"launch_us": 4.0, "handover_us": 6.0}
host_bench.overheads = lambda *args: {
    "gpu": {**waits, "flag_us": 6.0}, "npu": {**waits, "op_us": 0.5, "submit_us": 5.0}
}
"""


@pytest.fixture
def in_no_time(monkeypatch, tmp_path, opencl):
    """Makes the child's program; the test may add to it."""

    def write(more=""):
        (tmp_path / "sitecustomize.py").write_text(_IN_NO_TIME + more)
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    return write


def test_the_profile_comes_back_and_every_line(in_no_time):
    in_no_time()
    lines = []
    found = measure_apart(lines.append)
    assert found.spec.memory.peak_gbps == 12.0
    assert (found.spec.gpu.both_rate, found.spec.npu.both_row_rate) == (0.5, 0.25)
    assert {record.us for record in found.gpu_records} == {100.0}
    assert lines[0] == "measuring this machine (1 of 16): memory"
    assert lines[-1] == "measuring this machine (16 of 16): GPU and NPU at once, from memory"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('def fail(*args): raise OSError("no memory")\nhost_bench.overheads = fail', "no memory"),
        ("import os\nhost_bench.overheads = lambda *args: os._exit(9)", "it ended without a word"),
    ],
    ids=["raises", "dies"],
)
def test_a_failure_is_one_line_that_says_what_to_do(in_no_time, more, said):
    in_no_time(more)
    with pytest.raises(EnvironmentProblem, match=rf"{said}.*HETERO_HOST_PROFILE=shipped") as caught:
        measure_apart(lambda line: None)
    assert "\n" not in str(caught.value)


def test_an_interrupt_ends_it(in_no_time):
    in_no_time("import time\nhost_bench.overheads = lambda *args: time.sleep(600)")

    def interrupted(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_apart(interrupted)


@pytest.mark.nightly
def test_this_machine(opencl):
    found = measure_apart(lambda line: None)
    assert found.spec.memory.origin("peak_gbps").provenance == "measured"
    assert 0 < found.spec.npu.both_rate <= 1
