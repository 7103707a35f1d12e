"""What every device owes its callers: one list of checks, run on one device after the other.

`python device_checks.py DEVICE` serves checks by name over standard input; `test_device.py` starts
one such process per device. To add a device: a class here, a row in DEVICES, a row in the test.
"""

import gc
import json
import os
import sys
import tempfile
import threading
import time
import traceback

import numpy as np
import tvm
from runtime_harness import ADD_ONE, ADD_ONE_ARGS, X, compile_for_qnn, onnx_region, opencl_module

from hetero_tvm import errors, runtime

N = 256  # elements of every tensor; an NPU's shapes are fixed


class Unavailable(Exception):
    """The device is not there, or has no such thing; says why."""


def ffi(name, *arguments):
    return tvm.get_global_func(f"hetero_tvm.{name}")(*arguments)


def address(tensor):
    return ffi("tensor_address", tensor)


class NullDevice:
    """Host memory and a worker thread, with failures to order."""

    is_async = True
    views = "any"

    def __init__(self):
        self.device = tvm.device("ext_dev", 0)
        self.behave()

    def behave(self, latency_us=0, fail_launches=0, memory_bytes=1 << 30):
        ffi("null_device_configure", latency_us, fail_launches, memory_bytes)

    def add_one(self, source, target, slow=False):
        self.behave(latency_us=100_000 if slow else 0)
        ffi("null_device_add_one", source, target)

    def fail(self):
        self.behave(fail_launches=1)
        tensor = place(self, np.zeros(N, "float32"))
        ffi("null_device_add_one", tensor, tensor)
        self.wait()

    def exhaust(self):
        self.behave(memory_bytes=1 << 20)
        try:
            tvm.runtime.empty((1 << 20,), "float32", self.device)
        finally:
            self.behave()

    def wait(self):
        self.device.sync()


class OpenClDevice:
    """Whatever OpenCL device and kind of memory the environment names."""

    is_async = True

    def __init__(self):
        try:
            self.device = runtime.open_opencl()
        except errors.EnvironmentProblem as problem:
            raise Unavailable(str(problem)) from problem
        (self.about,) = [d for d in runtime.opencl_devices() if d["selected"]]
        wanted = os.environ.get("HETERO_OPENCL_MEMORY", self.about["memory"])
        assert self.about["memory"] == wanted
        self.views = "aligned" if wanted in ("buffer", "dma_buf") else "any"
        module = opencl_module({"add_one": (ADD_ONE_ARGS, X)}, {"add_one": ADD_ONE})
        self.kernel = module["add_one"]

    def add_one(self, source, target, slow=False):
        self.kernel(target, source, N, 2_000_000 if slow else 0, N // 64, 64)

    def fail(self):
        tensor = place(self, np.zeros(N, "float32"))
        self.kernel(tensor, tensor, N, 0, 1, 2 * self.about["max_work_group_size"])

    def exhaust(self):
        tvm.runtime.empty((self.about["max_allocation_bytes"] + 1,), "int8", self.device)

    def wait(self):
        self.device.sync()


class NpuDevice:
    """A region over ONNX Runtime; memory is the host's."""

    is_async = False
    views = "any"

    def __init__(self, region, provider, options):
        self.device = tvm.cpu()
        self.module = runtime.npu_module([region], provider, options)
        runtime.prepare(self.module)
        self.region = self.module[region.symbol]

    def add_one(self, source, target, slow=False):
        self.region(source, target)

    def fail(self):
        broken = onnx_region("broken", "Add", (N,), constant=[1.0])
        broken.onnx = broken.onnx[: len(broken.onnx) // 2]
        tensor = place(self, np.zeros(N, "float32"))
        runtime.npu_module([broken], "cpu", {})["broken"](tensor, tensor)

    def exhaust(self):
        raise Unavailable("an NPU works in its callers' memory")

    def wait(self):
        pass


def ort_device():
    return NpuDevice(onnx_region("add_one", "Add", (N,), constant=[1.0]), "cpu", {"threads": "1"})


def qnn_device():
    try:
        runtime.require(qnn=True)
    except errors.EnvironmentProblem as problem:
        raise Unavailable(str(problem)) from problem
    with tempfile.TemporaryDirectory() as folder:
        region = onnx_region("add_one", "Add", (N,), constant=[1.0])
        return NpuDevice(compile_for_qnn(region, 57, folder), "qnn", {"soc_model": "57"})


DEVICES = {"null": NullDevice, "opencl": OpenClDevice, "npu_ort": ort_device, "npu_qnn": qnn_device}


def place(device, array):
    return tvm.runtime.tensor(array, device.device)


def numbers(seed=0):
    """Whole numbers, which half precision holds exactly."""
    return np.random.default_rng(seed).integers(-50, 50, N).astype("float32")


def same(actual, expected):
    # Whole numbers, so that nothing hides in it; a float32 passing through an NPU loses some 1e-7.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-3)


def check_keeps_what_is_put_there(device):
    for dtype in ("float32", "int8", "int64", "float16", "bool"):
        array = numbers().astype(dtype)
        np.testing.assert_array_equal(place(device, array).numpy(), array)


def check_data_is_the_host_address(device):
    source, target = place(device, numbers()), place(device, numbers(1))
    runtime.reset_counters()
    runtime.host_view(source)[:] = numbers(2)
    device.add_one(source, target)
    device.wait()
    same(runtime.host_view(target), numbers(2) + 1)
    assert runtime.counters()["copies"] == 0, runtime.counters()


def check_counts_copies(device):
    tensor = place(device, numbers())
    runtime.reset_counters()
    tensor.numpy()
    expected = 0 if device.device.dlpack_device_type() == 1 else 1  # host tensors are TVM's own
    assert runtime.counters()["copies"] == expected, runtime.counters()
    assert runtime.counters()["bytes_copied"] == expected * 4 * N


def check_alignment(device):
    tensors = [tvm.runtime.empty((size,), "int8", device.device) for size in (1, 3, 64, 65, 5000)]
    assert not [address(t) % 64 for t in tensors if address(t) % 64]
    assert len({address(t) for t in tensors}) == len(tensors)


def check_empty_tensor(device):
    assert tvm.runtime.empty((0, 4), "float32", device.device).numpy().shape == (0, 4)


def check_view_of_the_middle(device):
    whole = place(device, np.full(3 * N, 7, "float32"))
    middle = whole._create_view((N,), "float32", 4 * N)
    source = place(device, numbers())
    device.add_one(source, middle)
    device.wait()
    expected = np.concatenate([np.full(N, 7), numbers() + 1, np.full(N, 7)])
    same(runtime.host_view(whole), expected)


def check_view_at_any_element(device):
    whole = place(device, np.full(N + 3, 7, "float32"))
    view = whole._create_view((N,), "float32", 4)
    if device.views == "any":
        device.add_one(place(device, numbers()), view)
        device.wait()
        expected = np.concatenate([[7], numbers() + 1, [7, 7]])
    else:
        message = failure_of(lambda: device.add_one(place(device, numbers()), view), ValueError)
        assert "begins 4 bytes into its memory" in message, message
        assert "multiples of 128" in message, message
        device.wait()
        expected = np.full(N + 3, 7)
    same(runtime.host_view(whole), expected)


def check_view_with_its_own_address(device):
    whole = place(device, np.full(3 * N, 7, "float32"))
    middle = runtime.view(whole, 4 * N, (N,))
    start = address(whole)
    del whole  # the view keeps it
    gc.collect()
    assert address(middle) == start + 4 * N
    assert middle.shape == (N,)
    device.add_one(place(device, numbers()), middle)
    device.wait()
    same(middle.numpy(), numbers() + 1)
    outer = runtime.view(middle, 0, (2, N // 2))
    same(runtime.host_view(runtime.view(outer, 2 * N, (N // 2,))), numbers()[N // 2 :] + 1)


def check_views_reach_nowhere_else(device):
    whole = place(device, numbers())
    for start, shape in (
        (0, (N + 1,)),
        (4, (N,)),
        (-4, (1,)),
        (0, (-1,)),
        (0, (1 << 62,)),  # so many float32 that their bytes wrap around to 0
        (0, (1 << 62, 1 << 62)),
        (0, (N, 1 << 32, 1 << 32)),
    ):
        message = failure_of(lambda at=start, of=shape: runtime.view(whole, at, of), ValueError)
        assert "view" in message, message
    assert runtime.view(whole, 4 * N, (0, 1 << 62, 4)).shape == (0, 1 << 62, 4)


def check_launch_does_not_block(device):
    source, target = place(device, numbers()), place(device, numbers(1))
    device.add_one(source, target)  # whatever happens only once happens here
    device.wait()
    started = time.perf_counter()
    device.add_one(source, target, slow=True)
    launched = time.perf_counter() - started
    device.wait()
    done = time.perf_counter() - started
    if device.is_async:
        assert done > 0.01, f"the slow launch took {done} s, too little to tell"
        assert launched < done / 2, f"launched after {launched} s, done after {done} s"
    same(runtime.host_view(target), numbers() + 1)


def check_launches_keep_their_order(device):
    tensor = place(device, np.zeros(N, "float32"))
    other = place(device, np.zeros(N, "float32"))
    for _ in range(100):
        device.add_one(tensor, other)
        device.add_one(other, tensor)
    device.wait()
    same(runtime.host_view(tensor), np.full(N, 200))


def check_copy_waits_for_launches(device):
    source, target = place(device, numbers()), place(device, numbers(1))
    device.add_one(source, target, slow=True)
    same(target.numpy(), numbers() + 1)


def check_failure_is_reported_once_and_over(device):
    message = failure_of(device.fail, errors.DeviceFailure)
    assert "launch" in message or "region broken" in message, message
    device.wait()
    check_launches_keep_their_order(device)


def check_out_of_memory(device):
    message = failure_of(device.exhaust, errors.DeviceFailure)
    assert message.startswith("out of memory: "), message
    check_data_is_the_host_address(device)


def check_memory_in_use_is_not_freed(device):
    for _ in range(20):
        source, target = place(device, numbers()), place(device, numbers(1))
        device.add_one(source, target, slow=False)
        del source, target
        gc.collect()
    device.wait()
    check_data_is_the_host_address(device)


def check_threads(device):
    failures = []

    def work(seed):
        try:
            source, target = place(device, numbers(seed)), place(device, numbers(0))
            for _ in range(25):
                device.add_one(source, target)
                device.wait()
                same(target.numpy(), numbers(seed) + 1)
        except Exception:  # noqa: BLE001 the main thread reports it
            failures.append(traceback.format_exc())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def failure_of(action, kind):
    try:
        action()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


CHECKS = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_")
}


def serve(device_name, answer):
    """Answer the checks named on standard input."""
    runtime.load()
    try:
        device = DEVICES[device_name]()
    except Unavailable as reason:
        answer(skip=str(reason))
        return
    answer(skip=None)
    for line in sys.stdin:
        try:
            CHECKS[line.strip()](device)
        except Unavailable as reason:
            answer(skip=str(reason))
        except Exception:  # noqa: BLE001 the test reports it
            answer(error=traceback.format_exc())
        else:
            answer(ok=True)


if __name__ == "__main__":
    # Answers have standard output for themselves: vendors' libraries print to it.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def to_parent(**fields):
        channel.write(json.dumps(fields) + "\n")
        channel.flush()

    serve(sys.argv[1], to_parent)
