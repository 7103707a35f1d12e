"""One conformance suite over every device that is present; `device_checks.py` has the checks."""

import re
from pathlib import Path

import dma_buf_shims
import pytest
from runtime_harness import Worker

_SOURCE = (Path(__file__).parent / "device_checks.py").read_text()
CHECKS = re.findall(r"^def check_(\w+)\(device\):", _SOURCE, re.MULTILINE)

DEVICES = {
    "null": ("null", {}),
    "opencl_svm": ("opencl", {"HETERO_OPENCL_MEMORY": "svm"}),
    "opencl_coarse_svm": ("opencl", {"HETERO_OPENCL_MEMORY": "coarse_svm"}),
    "opencl_dma_buf": ("opencl_imported", {"HETERO_OPENCL_MEMORY": "dma_buf"}),
    "opencl_buffer": ("opencl", {"HETERO_OPENCL_MEMORY": "buffer"}),
    "pocl_svm": ("opencl", {"HETERO_OPENCL_DEVICE": "Portable"}),
    "pocl_buffer": (
        "opencl",
        {"HETERO_OPENCL_DEVICE": "Portable", "HETERO_OPENCL_MEMORY": "buffer"},
    ),
    "npu_ort": ("npu_ort", {}),
    "npu_qnn": ("npu_qnn", {}),
}


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    name, variables = DEVICES[request.param]
    if name == "opencl_imported":
        request.getfixturevalue("opencl")
        name, variables = "opencl", variables | dma_buf_shims.variables()
    worker = Worker(name, **variables)
    if worker.unavailable:
        pytest.skip(worker.unavailable)
    yield worker
    assert worker.close() == 0, "the device's process did not end well"


@pytest.mark.parametrize("check", CHECKS)
def test_device(device, check):
    answer = device.run(check)
    if "skip" in answer:
        pytest.skip(answer["skip"])
    assert "ok" in answer, answer["error"]
