"""The Python side of the runtime; the C++ side has `tests/runtime`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hetero_tvm import errors, runtime


def test_importing_it_imports_nothing_heavy():
    code = (
        "import sys; from hetero_tvm import runtime\n"
        "print([name for name in ('tvm', 'numpy', 'onnxruntime', 'onnx') if name in sys.modules])"
    )
    root = Path(runtime.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout == "[]\n"


def test_library_that_was_not_built_says_how_to(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "LIBRARY", tmp_path / "libhetero_runtime.so")
    with pytest.raises(errors.EnvironmentProblem, match=r"is missing; build it: pip install \."):
        runtime.load.__wrapped__()


def test_library_that_does_not_load_says_so(monkeypatch, tmp_path):
    broken = tmp_path / "libhetero_runtime.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(runtime, "LIBRARY", broken)
    with pytest.raises(errors.EnvironmentProblem, match=r"does not load with apache-tvm .* again"):
        runtime.load.__wrapped__()


def test_package_version():
    assert runtime.package_version("apache-tvm").startswith("0.27")
    assert runtime.package_version("no-such-distribution") is None


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"ort": True}, "ONNX Runtime is not installed; pip install onnxruntime"),
        ({"qnn": True}, r"onnxruntime-qnn is not installed; run: pip install 'hetero-tvm\[qnn\]'"),
    ],
)
def test_require_says_what_to_install(monkeypatch, needs, message):
    monkeypatch.setattr(runtime, "_package_file", lambda _package, _pattern: None)
    with pytest.raises(errors.EnvironmentProblem, match=message):
        runtime.require(**needs)
    runtime.require()


def test_devices_are_described():
    for index, device in enumerate(runtime.opencl_devices()):
        assert device["index"] == index
        assert isinstance(device["half"], bool)
        assert device["type"] in {"cpu", "gpu", "accelerator"}
        assert device["memory"] in {"svm", "dma_buf", "coarse_svm", "buffer"}
        assert device["max_work_group_size"] >= 1
        assert device["local_memory_bytes"] >= 1 << 14


def test_counters_are_read_and_reset():
    runtime.load()
    import tvm

    tensor = tvm.runtime.tensor(np.zeros(10, "float32"), tvm.device("ext_dev", 0))
    runtime.reset_counters()
    assert set(runtime.counters().values()) == {0}
    tensor.numpy()
    counted = runtime.counters()
    assert (counted["copies"], counted["bytes_copied"]) == (1, 40)


def test_unknown_setting_lists_the_known_ones():
    runtime.load()
    import tvm

    with pytest.raises(ValueError, match=r"unknown setting 'x'; known settings: opencl.library "):
        tvm.get_global_func("hetero_tvm.setting_set")("x", "y")


@pytest.fixture
def whole():
    """24 bytes."""
    runtime.load()
    import tvm

    return tvm.runtime.tensor(np.arange(6, dtype="float32"), tvm.device("ext_dev", 0))


@pytest.mark.parametrize("shape", [(), (0,), (4,), (2, 2), (1, 4, 1)])
def test_view_is_a_part_of_a_tensor(whole, shape):
    expected = np.arange(6, dtype="float32")[2 : 2 + int(np.prod(shape))].reshape(shape)
    np.testing.assert_array_equal(runtime.view(whole, 8, shape).numpy(), expected)


@pytest.mark.parametrize(
    ("byte_offset", "shape", "message"),
    [
        (12, (4,), r"view: shape \[4\] at byte 12 reaches beyond the tensor's 24 bytes"),
        (-4, (1,), r"view: shape \[1\] at byte -4 reaches beyond the tensor's 24 bytes"),
        (0, (2**40, 2**40), "reaches beyond the tensor's 24 bytes"),
        (0, (2**62,), "reaches beyond the tensor's 24 bytes"),
        (2**62, (1,), "reaches beyond the tensor's 24 bytes"),
        (0, (-1,), r"view: the shape \[-1\] has a negative extent"),
    ],
)
def test_view_outside_of_a_tensor_is_refused(whole, byte_offset, shape, message):
    with pytest.raises(ValueError, match=message):
        runtime.view(whole, byte_offset, shape)


def test_view_of_a_tensor_with_gaps_is_refused():
    runtime.load()
    import tvm_ffi

    gaps = tvm_ffi.from_dlpack(np.zeros((2, 6), "float32")[:, ::2])
    with pytest.raises(ValueError, match="view: the tensor has gaps between its elements"):
        runtime.view(gaps, 0, (1,))


def test_waits_by_the_names_of_devices():
    runtime.load()
    runtime.reset_counters()
    runtime.wait("npu", "gpu")
    assert runtime.counters()["wait_npu_on_gpu"] == 1
    with pytest.raises(ValueError, match="unknown device 'dsp'; known: cpu, gpu, npu"):
        runtime.wait("dsp", "gpu")


def test_sync_options_are_switches():
    runtime.configure_sync(fast=False, implicit_waits=True)
    runtime.configure_sync(fast=True)
    runtime.sync()


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_host_view_is_the_tensors_own_memory(shape):
    runtime.load()
    import tvm

    array = np.ones(shape, "float32")
    tensor = tvm.runtime.tensor(array, tvm.device("ext_dev", 0))
    view = runtime.host_view(tensor)
    view[...] += 1
    np.testing.assert_array_equal(tensor.numpy(), array + 1)


def test_host_view_keeps_the_tensor_alive():
    runtime.load()
    import tvm

    view = runtime.host_view(
        tvm.runtime.tensor(np.arange(1000, dtype="int64"), tvm.device("ext_dev", 0))
    )
    others = [tvm.runtime.empty((1000,), "int64", tvm.device("ext_dev", 0)) for _ in range(10)]
    for other in others:
        runtime.host_view(other)[:] = -1
    np.testing.assert_array_equal(view, np.arange(1000))


_WRONG = {
    "HETERO_DEVICE_LIMIT_S": "soon",
    "HETERO_MEMORY_LIMIT": "much",
    "HETERO_OPENCL_MEMORY": "other",
    "HETERO_OPENCL_IMAGES": "5",
    "HETERO_SOC_ID": "nine",
}
_TRY_ALL = f"""
import os
from hetero_tvm import errors, runtime
runtime.load()
for name, value in {_WRONG!r}.items():
    os.environ[name] = value
    try:
        runtime.soc_id() if name == "HETERO_SOC_ID" else runtime.open_opencl()
    except errors.BadInput as error:
        assert name in str(error) and value in str(error), error
    else:
        raise AssertionError(name)
    del os.environ[name]
"""


def test_a_variable_that_has_no_such_value_is_the_users():
    done = subprocess.run(
        [sys.executable, "-c", _TRY_ALL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
