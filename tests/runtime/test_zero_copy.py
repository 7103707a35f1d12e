"""GPU, NPU, GPU through stock Relax on one OpenCL device: right numbers, not one byte copied."""

import json

import dma_buf_shims
import numpy as np
import pytest
from runtime_harness import fresh

pytestmark = pytest.mark.usefixtures("opencl")

# main(x): a = relu(x) on the GPU, b = npu(a) = a * 2, c = b + a on the GPU; returns all three.
SCRIPT = """
import json, sys
import numpy as np, tvm
from tvm import relax
from tvm.s_tir import dlight
from hetero_tvm import runtime
from runtime_harness import compile_for_qnn, onnx_region

provider, folder = sys.argv[1:]
device = runtime.open_opencl()
runtime.configure_sync(implicit_waits=True)  # this module says no waits
kind = relax.TensorType((64, 128), "float32")
builder = relax.BlockBuilder()
x = relax.Var("x", kind)
with builder.function("main", [x]):
    with builder.dataflow():
        a = builder.emit(relax.op.nn.relu(x))
        b = builder.emit(relax.call_dps_packed("npu_region_0", relax.Tuple([a]), out_ty=kind))
        c = builder.emit(relax.op.add(b, a))
        result = builder.emit_output(relax.Tuple([a, b, c]))
    builder.emit_func_output(result)
target = tvm.target.Target({"kind": "opencl", "max_threads_per_block": 256}, host="llvm")
with target:
    mod = relax.get_pipeline("zero")(builder.get())
    mod = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())(mod)
region = onnx_region("npu_region_0", "Mul", (64, 128), constant=[2.0])
options = {"threads": "1"}
if provider == "qnn":
    region, options = compile_for_qnn(region, 57, folder), {"soc_model": "57"}
built = tvm.compile(mod, target=target)
built.mod.import_module(runtime.npu_module([region], provider, options))
built.export_library(folder + "/model.so")
machine = relax.VirtualMachine(tvm.runtime.load_module(folder + "/model.so"), device)

array = np.random.default_rng(0).standard_normal((64, 128), "float32")
given = tvm.runtime.tensor(array, device)
machine["main"](given)
runtime.reset_counters()
a, b, c = machine["main"](given)
counted = runtime.counters()
a, b, c = map(runtime.host_view, (a, b, c))
assert runtime.counters()["copies"] == 0
np.testing.assert_array_equal(a, np.maximum(array, 0))
# The NPU computes in half precision: 11 bits, rounded once.
np.testing.assert_allclose(b, 2 * a, rtol=2**-11 if provider == "qnn" else 0)
np.testing.assert_array_equal(c, b + a)  # what the GPU read is what the NPU left in b
print(json.dumps(counted))
"""


@pytest.mark.parametrize("memory", ["svm", "dma_buf", "coarse_svm", "buffer"])
@pytest.mark.parametrize("provider", ["cpu", "qnn"])
def test_gpu_npu_gpu_copies_nothing(tmp_path, provider, memory):
    if provider == "qnn":
        pytest.importorskip("onnxruntime_qnn")
    driver = dma_buf_shims.variables() if memory == "dma_buf" else {}
    done = fresh(SCRIPT, provider, tmp_path, **driver, HETERO_OPENCL_MEMORY=memory)
    assert done.returncode == 0, done.stderr
    counted = done.json
    assert counted["copies"] == counted["bytes_copied"] == 0
    assert counted["kernel_launches"] == 2
    assert counted["npu_runs"] == 1
    assert counted["npu_sessions"] == 0  # built by the first run
    assert counted["gpu_waits"] == 1  # before the NPU; the end is the caller's to wait for


def test_npu_writes_into_the_middle_of_a_tensor(opencl):
    """One buffer, two devices: the region's output is a view, its neighbours are the GPU's."""
    import tvm
    from runtime_harness import ADD_ONE, ADD_ONE_ARGS, X, onnx_region, opencl_module

    from hetero_tvm import runtime

    n = 256
    kernel = opencl_module({"add_one": (ADD_ONE_ARGS, X)}, {"add_one": ADD_ONE})["add_one"]
    region = onnx_region("double", "Mul", (n,), constant=[2.0])
    npu = runtime.npu_module([region], "cpu", {})["double"]
    source = tvm.runtime.tensor(np.arange(n, dtype="float32"), opencl)
    whole = tvm.runtime.empty((3 * n,), "float32", opencl)
    parts = [whole._create_view((n,), "float32", 4 * n * i) for i in range(3)]
    address = tvm.get_global_func("hetero_tvm.tensor_address")
    runtime.reset_counters()
    kernel(parts[0], source, n, 0, 4, 64)
    npu(source, parts[1])
    runtime.wait("gpu", "npu")
    kernel(parts[2], parts[1], n, 0, 4, 64)
    view = runtime.host_view(whole)
    assert [address(part) - address(whole) for part in parts] == [0, 4 * n, 8 * n]
    assert view.ctypes.data == address(whole)
    x = np.arange(n)
    np.testing.assert_array_equal(view, np.concatenate([x + 1, 2 * x, 2 * x + 1]))
    assert runtime.counters()["copies"] == 0, json.dumps(runtime.counters())


def test_npu_waits_for_what_the_gpu_still_writes(opencl):
    import tvm
    from runtime_harness import ADD_ONE, ADD_ONE_ARGS, X, onnx_region, opencl_module

    from hetero_tvm import runtime

    n = 256
    kernel = opencl_module({"add_one": (ADD_ONE_ARGS, X)}, {"add_one": ADD_ONE})["add_one"]
    region = onnx_region("double", "Mul", (n,), constant=[2.0])
    module = runtime.npu_module([region], "cpu", {})
    runtime.prepare(module)
    source = tvm.runtime.tensor(np.arange(n, dtype="float32"), opencl)
    between, result = (tvm.runtime.empty((n,), "float32", opencl) for _ in range(2))
    kernel(between, source, n, 0, 4, 64)  # whatever happens only once happens here
    runtime.host_view(between)[:] = -1
    kernel(between, source, n, 2_000_000, 4, 64)  # some 100 ms
    runtime.wait("npu", "gpu")
    module["double"](between, result)
    np.testing.assert_array_equal(runtime.host_view(result), 2 * (np.arange(n) + 1))
