"""Tracing under load: every event of every thread, none twice, none when it is off.

Runs under ThreadSanitizer too (`make tsan`).
"""

import threading

import numpy as np
import pytest
import tvm
from runtime_harness import ADD_ONE, ADD_ONE_ARGS, X, onnx_region, opencl_module

from hetero_tvm import runtime

runtime.load()
N = 256
START = tvm.get_global_func("hetero_tvm.trace_start")
STOP = tvm.get_global_func("hetero_tvm.trace_stop")
INSTRUMENT = tvm.get_global_func("hetero_tvm.trace_instrument")
SLACK_NS = 50_000  # around a clock that is read from outside


@pytest.fixture(autouse=True)
def quiet():
    runtime.sync()
    yield
    STOP()


@pytest.fixture
def gpu(opencl):
    kernel = opencl_module({"add_one": (ADD_ONE_ARGS, X)}, {"add_one": ADD_ONE})["add_one"]
    return lambda out, source, rounds=0: kernel(out, source, N, rounds, N // 64, 64)


def npu(**options):
    region = onnx_region("npu", "Identity", (N,))
    return runtime.npu_module([region], "null", {k: str(v) for k, v in options.items()})["npu"]


def tensors(device, count):
    return [tvm.runtime.tensor(np.zeros(N, "float32"), device) for _ in range(count)]


def stop():
    """(rows, lost): rows of kind, thread, name, start, end, call, detail."""
    *rows, lost = STOP()
    return [tuple(row) for row in rows], lost


def of_kind(rows, kind):
    return [row for row in rows if row[0] == kind]


def test_kernels_lie_between_their_launch_and_the_wait(opencl, gpu):
    """The driver's clock is mapped to the host's."""
    out, source = tensors(opencl, 2)
    START(1000)
    for _ in range(20):
        gpu(out, source, rounds=20_000)
        runtime.gpu_wait()
    opencl.sync()
    rows, lost = stop()
    submits, kernels = of_kind(rows, "submit"), of_kind(rows, "kernel")
    assert len(submits) == len(kernels) == 20 and lost == 0
    for number, (submit, kernel) in enumerate(zip(submits, kernels, strict=True)):
        assert kernel[2] == "add_one" and kernel[1] == -1
        assert submit[3] - SLACK_NS <= kernel[3] < kernel[4]
        if number + 1 < len(submits):  # which was launched when the host had seen the end
            assert kernel[4] <= submits[number + 1][3] + SLACK_NS


def test_regions_copies_and_waits(opencl, gpu):
    out, source, copy = tensors(opencl, 3)
    run = npu(latency_us=1000)
    START(1000)
    gpu(source, out)
    runtime.wait("npu", "gpu")
    run(source, copy)
    runtime.wait("cpu", "npu")
    source.copyto(out)
    rows, _ = stop()
    (region,) = of_kind(rows, "region")
    assert region[2] == "npu" and region[4] - region[3] >= 1_000_000
    assert [row[2] for row in of_kind(rows, "submit")] == ["add_one", "npu"]
    assert [row[6] for row in of_kind(rows, "copy")] == [4 * N]
    waits = {row[6] for row in of_kind(rows, "wait")}
    assert {2 * 4 + 1, 0 * 4 + 2} <= waits  # the NPU for the GPU, the host for the NPU


def test_off_records_nothing(opencl, gpu):
    out, source = tensors(opencl, 2)
    START(1000)
    stop()
    gpu(out, source)
    opencl.sync()
    START(1000)
    rows, _ = stop()
    assert of_kind(rows, "kernel") == of_kind(rows, "submit") == []


def test_the_newest_events_stay(opencl, gpu):
    out, source = tensors(opencl, 2)
    START(5)
    for _ in range(12):
        gpu(out, source)
    rows, lost = stop()
    submits = of_kind(rows, "submit")
    assert len(submits) == 5 and lost == 7
    assert [row[3] for row in submits] == sorted(row[3] for row in submits)
    assert len(of_kind(rows, "kernel")) == 12  # the driver's times are kept apart


def test_calls_number_what_they_submit(opencl, gpu):
    out, source = tensors(opencl, 2)
    START(1000)
    for symbol in ("first", "vm.builtin.alloc_tensor", "second"):
        INSTRUMENT(gpu, symbol, True, None)
        if symbol != "vm.builtin.alloc_tensor":
            gpu(out, source)
        INSTRUMENT(gpu, symbol, False, None)
    gpu(out, source)
    rows, _ = stop()
    calls = of_kind(rows, "call")
    assert [row[2] for row in calls] == ["first", "second"]
    numbers = [row[5] for row in calls]
    assert numbers[1] == numbers[0] + 1
    assert [row[5] for row in of_kind(rows, "kernel")] == [*numbers, -1]


def test_threads_that_record_while_others_start_and_stop(opencl, gpu):
    """Nothing is torn, whatever meets whatever."""
    run, failures = npu(), []
    ready = threading.Event()

    def work():
        try:
            out, source = tensors(opencl, 2)
            ready.set()
            for _ in range(60):
                gpu(out, source)
                runtime.wait("npu", "gpu")
                run(source, out)
                runtime.wait("cpu", "npu")
        except RuntimeError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready.wait()
    seen = 0
    while any(thread.is_alive() for thread in threads):
        START(64)
        rows, _ = stop()
        seen += len(rows)
        for kind, _, name, start, end, *_ in rows:
            assert kind in {"submit", "kernel", "region", "wait", "copy"}
            assert name in {"add_one", "npu", "wait", "sync", "copy"}
            assert start <= end
    for thread in threads:
        thread.join()
    assert not failures


def test_no_events_are_refused():
    with pytest.raises(ValueError, match="a trace of 0 events"):
        START(0)
