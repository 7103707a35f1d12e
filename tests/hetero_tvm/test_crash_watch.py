"""Verbs that a signal ends: the exit code, the line, the report; and signals that pass through."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import fault_shims
import pytest
import report_model

from hetero_tvm import runtime

_DIES = """
import os, signal, sys
from hetero_tvm import cli
{setup}
sys.argv = ["hetero-tvm", "doctor"]
cli.main = lambda: ({body})
sys.exit(cli.entry())
"""


def program(body, setup=""):
    """A verb whose work is `body`."""
    return [sys.executable, "-c", _DIES.format(body=body, setup=setup)]


def run(command, tmp_path, **variables):
    env = {**os.environ, "HETERO_CACHE_DIR": str(tmp_path), **variables}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def report_of(done):
    (path,) = re.findall(r"a report to attach is in (\S+) \[", done.stderr)
    return Path(path).read_text()


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGBUS", "SIGABRT"])
def test_a_fault_leaves_a_report_and_exit_code_5(tmp_path, name):
    done = run(program(f"os.kill(os.getpid(), signal.{name})"), tmp_path)
    assert done.returncode == 5
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"hetero-tvm doctor: error: native code crashed ({name})")
    assert line.endswith("[hetero-tvm explain HT5001]")
    report = report_of(done)
    assert f"ended by {name}" in report and "Fatal Python error" in report
    assert "command         hetero-tvm doctor" in report


def test_codes_and_output_pass_through(tmp_path):
    done = run(program("print('data') or 3"), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, "data\n", "")


def test_nothing_is_forked_beside_threads(tmp_path):
    """A lock that another thread holds would be held for ever in a child."""
    setup = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    setup += "\npid = os.getpid()"
    done = run(program("print(os.getpid() == pid) or 3", setup), tmp_path)
    assert (done.returncode, done.stdout) == (3, "True\n")


def test_killed_is_no_fault_of_ours(tmp_path):
    done = run(program("os.kill(os.getpid(), signal.SIGKILL)"), tmp_path)
    assert done.returncode == 3 and "for want of memory" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_reach_the_verb_once(tmp_path, number, code):
    """SIGTERM ends it as ever; what a verb does about SIGINT is its own business."""
    body = "print('ready', flush=True) or time.sleep(60)"
    env = {**os.environ, "HETERO_CACHE_DIR": str(tmp_path)}
    with subprocess.Popen(
        program(body, "import time"), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(20) == code


@pytest.mark.parametrize("to_all", [False, True], ids=["the parent", "the group"])
def test_a_signal_to_all_of_a_group_reaches_the_verb_once(tmp_path, to_all):
    setup = """
import time
had = []
def verb():
    signal.signal(signal.SIGTERM, lambda number, frame: had.append(number))
    print("ready", flush=True)
    end = time.monotonic() + 30
    while len(had) < 1 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.5)
    print(len(had), flush=True)
    return 0
"""
    with subprocess.Popen(
        program("verb()", setup), stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        (os.killpg if to_all else os.kill)(process.pid, signal.SIGTERM)
        assert process.stdout.readline() == b"1\n"


def test_whoever_kills_the_parent_ends_the_verb(tmp_path):
    body = "print(os.getpid(), flush=True) or time.sleep(60)"
    with subprocess.Popen(program(body, "import time"), stdout=subprocess.PIPE) as process:
        child = int(process.stdout.readline())
        process.kill()
        process.wait(10)
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text():
            return
        time.sleep(0.05)
    pytest.fail("the verb lives on")


@pytest.mark.skipif(sys.platform != "linux", reason="forks and memfd")
def test_a_driver_that_crashes_is_named_with_its_region(tmp_path):
    """`run` on a library that reads a bad address in the NPU's Run."""
    ort = runtime.library_paths()["ort.library"]
    done = run(
        [sys.executable, "-m", "hetero_tvm.run", str(report_model.artefact())],
        tmp_path,
        HETERO_ORT_LIB=str(fault_shims.ort_shim()),
        FAULT_REAL_ORT=str(ort),
        FAULT_PLAN="Run 1 crash 0",
    )
    assert done.returncode == 5, done.stderr
    assert "native code crashed (SIGSEGV) while a thread is in " in done.stderr
    assert "Traceback" not in done.stderr
    report = report_of(done)
    assert re.search(r"a thread is in .*Run, for npu_region_\d+", report)
    assert "OpenCL device: " in report and ", driver " in report
    assert f"artefact: {report_model.artefact()}, for host; its NPU: cpu" in report
    assert "where it happened:" in report and "most recent call first" in report
    assert "command         hetero-tvm run" in report
