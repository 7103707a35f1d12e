"""OpenCL and ONNX Runtime fail, lie, are late and hang; see `fault_runs.py`."""

from __future__ import annotations

import fault_runs
import fault_shims
import pytest
from fault_runs import Fault, Runner, Subject


def test_every_call_of_the_runtime_goes_through_a_shim():
    text = "".join(path.read_text() for path in fault_shims.SOURCES.rglob("*.cc"))
    assert text.count("dlopen(") == 3  # OpenCL's, ONNX Runtime's, and libcrypto's
    assert len(fault_shims.opencl_calls()) == 38
    assert len(fault_shims.ort_calls()) == 28


def test_a_sample_of_faults(artefact):
    runner, memories = Runner(artefact), ("svm", "dma_buf", "buffer")
    try:
        faults = fault_runs.seeded(runner, 20, 3, ("fail", "lie", "delay"), memories)
        assert fault_runs.survive(runner, faults) == []
    finally:
        assert set(runner.close().values()) <= {0}


@pytest.mark.nightly
def test_a_thousand_faults(artefact):
    runner = Runner(artefact)
    try:
        assert fault_runs.survive(runner, fault_runs.seeded(runner, 1000, 0)) == []
    finally:
        runner.close()


@pytest.mark.nightly
@pytest.mark.parametrize("memory", fault_runs.MEMORIES)
def test_every_call(artefact, memory):
    runner = Runner(artefact)
    try:
        faults = fault_runs.every_call(runner, memory, ("fail", "lie", "delay"))
        assert fault_runs.survive(runner, faults) == []
    finally:
        runner.close()


def test_npu_work_that_hangs_moves_to_the_cpu_and_is_told_once(artefact):
    subject = Subject(artefact, limit_s=fault_runs.LIMIT_S)
    assert subject.ask()["under"]["outcome"] == "right"
    answer = subject.ask(ort="Run 1 hang 0")
    assert (answer["under"]["outcome"], answer["after"]["outcome"]) == ("right", "right")
    said = subject.said()
    assert said.count("is done on the CPU from now on") == said.count("the NPU failed") > 0
    regions = [line.split("region ")[1].split()[0] for line in said.splitlines() if "NPU f" in line]
    assert len(set(regions)) == len(regions)
    assert subject.close() == 0


def test_a_gpu_that_hangs_ends_the_process_with_a_word(artefact):
    subject = Subject(artefact, limit_s=fault_runs.LIMIT_S)
    assert subject.ask()["under"]["outcome"] == "right"
    assert subject.ask(opencl="clWaitForEvents 1 hang 0") is None
    assert subject.process.returncode == 4
    (line,) = [one for one in subject.said().splitlines() if "has not come back" in one]
    assert line.startswith("hetero_tvm: clWaitForEvents has not come back for 5 s: the device or")
    subject.close()


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        ("OpenCL: clFinish failed: CL_OUT_OF_RESOURCES (-5); try again", ""),
        ("OpenCL: clFlush failed: CL_OUT_OF_RESOURCES (-5); try again", "does not name clFinish"),
        ("OpenCL: clFinish failed: CL_OUT_OF_RESOURCES; try again", "does not say -5"),
        ("OpenCL: clFinish failed: CL_OUT_OF_RESOURCES (-5)", "does not say what to do"),
        ("clFinish\n", "several lines"),
    ],
)
def test_what_a_clear_error_is(ended, words):
    fault = Fault("clFinish", 1, "fail", -5, False, False, "svm")
    found = fault_runs.unclear(fault, {"message": ended})
    assert found == "" if not words else words in found


@pytest.mark.parametrize(
    ("text", "words"),
    [("soon", "give seconds"), ("-1", "give seconds"), ("1e9", "at most 86400")],
)
def test_a_wrong_limit_is_refused(text, words):
    from runtime_harness import fresh

    done = fresh(
        "from hetero_tvm import runtime; runtime.open_opencl()", HETERO_DEVICE_LIMIT_S=text
    )
    assert f"HETERO_DEVICE_LIMIT_S is '{text}'" in done.stderr
    assert words in done.stderr


@pytest.mark.parametrize("text", ["1T", "-5", "much"])
def test_a_wrong_memory_limit_is_refused(text):
    from runtime_harness import fresh

    done = fresh("from hetero_tvm import runtime; runtime.open_opencl()", HETERO_MEMORY_LIMIT=text)
    assert f"HETERO_MEMORY_LIMIT is '{text}': give bytes" in done.stderr


def test_an_artefact_over_the_limit_is_refused_before_it_is_loaded(artefact):
    subject = Subject(artefact, HETERO_MEMORY_LIMIT="2K")
    ended = subject.ask()["under"]
    assert ended["kind"] == "OverMemoryLimit"
    assert (
        "bytes of device memory, 0 are in use and HETERO_MEMORY_LIMIT is 2,048" in ended["message"]
    )
    assert subject.ask(measure=True)["device_bytes"] == 0
    subject.close()


def test_memory_over_the_limit_is_refused_before_it_is_taken():
    from runtime_harness import fresh

    done = fresh(
        "import tvm\n"
        "from hetero_tvm import runtime\n"
        "device = runtime.open_opencl()\n"
        "small = tvm.runtime.empty((1024,), 'uint8', device)\n"
        "try:\n    tvm.runtime.empty((4096,), 'uint8', device)\n"
        "except Exception as error:\n    print(error)\n"
        "print(runtime.held_bytes())",
        HETERO_MEMORY_LIMIT="2K",
    )
    assert "bytes more are needed" in done.stdout, done.stderr
    assert "the limit is 2048 (HETERO_MEMORY_LIMIT); raise it" in done.stdout
    assert 1024 <= done.json <= 2048
