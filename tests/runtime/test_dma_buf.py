"""Imported dma-bufs: when they are taken, why not, and that they end with their tensors.

`test_device.py`, `test_ordering.py` and `test_zero_copy.py` compute on them.
"""

import dma_buf_shims
import pytest
from runtime_harness import fresh

pytestmark = pytest.mark.usefixtures("opencl")

OPEN = """
import json
from hetero_tvm import errors, runtime
try:
    runtime.open_opencl()
    (about,) = [d for d in runtime.opencl_devices() if d["selected"]]
    print(json.dumps([about["memory"], about["memory_why"]]))
except errors.HeteroError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""
NO_FINE = "no svm: the driver has no fine-grain buffers"
COARSE, FINE = "1", "3"


def test_taken_before_coarse_grain_memory():
    done = fresh(OPEN, **dma_buf_shims.variables(), DRIVER_SVM=COARSE)
    assert done.json == ["dma_buf", NO_FINE], done.stderr


def test_fine_grain_memory_stays_first():
    done = fresh(OPEN, **dma_buf_shims.variables(), DRIVER_SVM=FINE)
    assert done.json == ["svm", "nothing is better"], done.stderr


def test_taken_where_it_is_asked_for():
    asked = dma_buf_shims.variables() | {"HETERO_OPENCL_MEMORY": "dma_buf", "DRIVER_SVM": FINE}
    done = fresh(OPEN, **asked)
    assert done.json == ["dma_buf", "no svm: HETERO_OPENCL_MEMORY asks for another kind"]


def test_described_before_it_was_tried():
    script = (
        "import json; from hetero_tvm import runtime\n"
        "print(json.dumps([d['memory_why'] for d in runtime.opencl_devices()][0]))"
    )
    done = fresh(script, **dma_buf_shims.variables(), DRIVER_SVM=COARSE)
    assert done.json == f"{NO_FINE}; no dma_buf: it is tried when the device is opened"


REFUSALS = [
    pytest.param(
        {"HEAP_DENIES": "1"},
        "open /dev/dma_heap/qcom,system: No such file or directory, "
        "open /dev/dma_heap/system: Permission denied",
        id="no_right_to_the_heap",
    ),
    pytest.param(
        {"HEAP_BYTES": "0"},
        "DMA_HEAP_IOCTL_ALLOC of /dev/dma_heap/system: Cannot allocate memory",
        id="empty_heap",
    ),
    pytest.param(
        {"DRIVER_REFUSES": "1"},
        "clCreateBuffer refuses it: CL_INVALID_VALUE (-30)",
        id="import_refused",
    ),
    pytest.param(
        {"DRIVER_COPIES": "1"}, "the driver maps it to another address", id="the_driver_copies"
    ),
    pytest.param(
        {"FAULT_PLAN": "clEnqueueNDRangeKernel 1 lie 0 "},
        "a kernel and the host do not see each other's bytes in it",
        id="a_kernel_sees_other_memory",
    ),
    pytest.param(
        {"FAULT_PLAN": "clEnqueueMapBuffer 1 fail -12 "},
        "clEnqueueMapBuffer refuses it: CL_MAP_FAILURE (-12)",
        id="not_mapped",
    ),
    pytest.param(
        {"DRIVER_EXTENSIONS": "cl_qcom_ext_host_ptr cl_qcom_dmabuf_host_ptr"},
        "the driver lacks cl_qcom_ext_host_ptr_iocoherent, without which the host's cache would be "
        "flushed at every change of hands",
        id="incoherent",
    ),
]


@pytest.mark.parametrize(("broken", "why"), REFUSALS)
def test_what_does_not_work_is_named_and_the_next_best_taken(broken, why):
    given = dma_buf_shims.variables() | {"DRIVER_SVM": COARSE} | broken
    done = fresh(OPEN, **given)
    assert done.json == ["coarse_svm", f"{NO_FINE}; no dma_buf: {why}"], done.stderr


def test_asked_for_and_not_there_is_refused():
    asked = dma_buf_shims.variables() | {"HETERO_OPENCL_MEMORY": "dma_buf", "HEAP_BYTES": "0"}
    kind, message = fresh(OPEN, **asked).json
    assert kind == "EnvironmentProblem"
    assert message.startswith("HETERO_OPENCL_MEMORY=dma_buf: ")
    assert " cannot import dma-bufs: DMA_HEAP_IOCTL_ALLOC of /dev/dma_heap/system: " in message
    assert "leave it away for the best kind that there is" in message


def test_descriptors_and_memory_end_with_their_tensors():
    script = """
import json, os, time
import tvm
from hetero_tvm import runtime
device = runtime.open_opencl()
def count():
    return len(os.listdir("/proc/self/fd")), open("/proc/self/maps").read().count("dma-buf")
counts = [count()]
tensors = [tvm.runtime.empty((1024,), "float32", device) for _ in range(20)]
counts.append(count())
del tensors
device.sync()
end = time.monotonic() + 20  # the driver says when it is done with them, in a thread of its own
while count() != counts[0] and time.monotonic() < end:
    time.sleep(0.01)
counts.append(count())
print(json.dumps([[one - counts[0][i] for i, one in enumerate(now)] for now in counts]))
"""
    done = fresh(script, **dma_buf_shims.variables(), HETERO_OPENCL_MEMORY="dma_buf")
    assert done.json == [[0, 0], [20, 20], [0, 0]], done.stderr


def test_a_heap_that_runs_dry_is_an_error_and_the_process_goes_on():
    script = """
import json
import numpy as np, tvm
from hetero_tvm import runtime
device = runtime.open_opencl()
first = tvm.runtime.empty((1024,), "float32", device)
try:
    tvm.runtime.empty((1 << 20,), "float32", device)
except Exception as error:
    message = str(error)
first.copyfrom(np.ones(1024, "float32"))
print(json.dumps([message, float(first.numpy().sum())]))
"""
    asked = {"HETERO_OPENCL_MEMORY": "dma_buf", "HEAP_BYTES": str(1 << 20)}
    done = fresh(script, **dma_buf_shims.variables(), **asked)
    message, total = done.json
    assert message.startswith("out of memory: ")
    assert "(DMA_HEAP_IOCTL_ALLOC of /dev/dma_heap/system: Cannot allocate memory)" in message
    assert total == 1024
