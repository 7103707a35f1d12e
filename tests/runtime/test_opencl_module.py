"""Modules of kind "opencl": TVM's format read and written, arguments, launches, Relax on top."""

import re

import numpy as np
import pytest
import tvm
from runtime_harness import (
    ADD_ONE,
    ADD_ONE_ARGS,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    POINTER,
    X,
    opencl_bytes,
    opencl_module,
)
from tvm import relax
from tvm.s_tir import dlight

from hetero_tvm import errors, runtime

runtime.load()
LOAD = tvm.get_global_func("ffi.Module.load_from_bytes.opencl")
SAVE = tvm.get_global_func("hetero_tvm.module_bytes")


def compiled_matmul():
    """relu(x @ w) over [64, 96] x [96, 32], built for OpenCL by stock TVM."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((64, 96), "float32"))
    w = relax.Var("w", relax.TensorType((96, 32), "float32"))
    with builder.function("main", [x, w]):
        with builder.dataflow():
            product = builder.emit(relax.op.matmul(x, w))
            y = builder.emit_output(relax.op.nn.relu(product))
        builder.emit_func_output(y)
    target = tvm.target.Target({"kind": "opencl", "max_threads_per_block": 256}, host="llvm")
    with target:
        mod = relax.get_pipeline("zero")(builder.get())
        mod = dlight.ApplyDefaultSchedule(dlight.gpu.Matmul(), dlight.gpu.Fallback())(mod)
    return tvm.compile(mod, target=target)


def opencl_part(module):
    if module.kind == "opencl":
        return module
    return next(filter(None, map(opencl_part, module.imports)), None)


@pytest.mark.parametrize("saved", [False, True], ids=["fresh_from_compiler", "saved_and_loaded"])
def test_stock_relax_module_runs(opencl, tmp_path, saved):
    built = compiled_matmul()
    if saved:
        built.export_library(str(tmp_path / "model.so"))
        built = tvm.runtime.load_module(str(tmp_path / "model.so"))
    machine = relax.VirtualMachine(built, opencl)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 96), "float32")
    w = rng.standard_normal((96, 32), "float32")
    y = machine["main"](tvm.runtime.tensor(x, opencl), tvm.runtime.tensor(w, opencl))
    # 96 products of numbers around 1 in float32: 96 * 2**-24 of their sum of magnitudes, some 60.
    np.testing.assert_allclose(y.numpy(), np.maximum(x @ w, 0), rtol=0, atol=4e-4)


def test_writes_the_format_that_it_reads():
    part = opencl_part(compiled_matmul().mod)
    first = SAVE(part)
    again = LOAD(first)
    assert SAVE(again) == first
    assert again.inspect_source() == part.inspect_source()


def test_time_evaluator_uses_our_timer(opencl, capfd):
    kernel = opencl_module({"add_one": (ADD_ONE_ARGS, X)}, {"add_one": ADD_ONE})
    tensor = tvm.runtime.tensor(np.zeros(64, "float32"), opencl)
    measured = kernel.time_evaluator("add_one", opencl, number=5)(tensor, tensor, 64, 1000, 1, 64)
    assert 0 < measured.mean < 1
    assert "No timer implementation" not in capfd.readouterr().err


def test_every_truncation_is_refused():
    whole = opencl_bytes({"add_one": (ADD_ONE_ARGS, X)}, f"// Function: add_one\n{ADD_ONE}")
    for size in range(len(whole)):
        with pytest.raises(ValueError, match="OpenCL module is truncated or damaged"):
            LOAD(whole[:size])
    with pytest.raises(ValueError, match="OpenCL module is truncated or damaged"):
        LOAD(whole + b"x")


@pytest.mark.parametrize("at", [0, 10], ids=["string_length", "number_of_kernels"])
def test_absurd_counts_are_refused(at):
    whole = bytearray(opencl_bytes({"add_one": (ADD_ONE_ARGS, X)}, ADD_ONE))
    whole[at : at + 8] = b"\xff" * 8
    with pytest.raises(ValueError, match="truncated or damaged"):
        LOAD(bytes(whole))


@pytest.mark.parametrize(
    ("types", "tags", "message"),
    [
        (((2, 32, 4),), X, "kernel k: argument 0 has type code 2 with 32 bits"),
        (((4, 16, 1),), X, "kernel k: argument 0 has type code 4 with 16 bits"),  # bfloat16
        ((INT32,), ("tirx.use_dyn_shared_memory",), "parameter 'tirx.use_dyn_shared_memory'"),
        ((INT32,), ("blockIdx.w",), "launch parameter 'blockIdx.w' is not one of OpenCL's"),
    ],
)
def test_what_opencl_cannot_do_is_refused_at_loading(types, tags, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LOAD(opencl_bytes({"k": (types, tags)}, "// Function: k\n"))


@pytest.mark.parametrize(
    ("kind", "c_type", "value"),
    [
        (INT32, "int", -7),
        (INT64, "long", -(2**40)),
        ((1, 32, 1), "uint", 2**32 - 1),
        ((0, 8, 1), "char", -3),
        ((1, 8, 1), "uchar", 200),
        ((6, 8, 1), "uchar", True),
        (FLOAT32, "float", 0.1),
        (FLOAT64, "double", 0.1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_scalar_arguments(opencl, kind, c_type, value):
    source = f"__kernel void k(__global {c_type}* out, {c_type} value) {{ out[0] = value; }}"
    module = opencl_module({"k": ((POINTER, kind), X)}, {"k": source})
    dtypes = {"uchar": "uint8", "char": "int8", "uint": "uint32", "int": "int32", "long": "int64"}
    dtype = dtypes.get(c_type, {"float": "float32", "double": "float64"}.get(c_type))
    out = tvm.runtime.tensor(np.zeros(1, dtype), opencl)
    module["k"](out, value, 1, 1)
    assert out.numpy()[0] == np.dtype(dtype).type(value)


@pytest.mark.parametrize(
    "value", [0.1, -2.5, 65504.0, 65519.9, 65520.0, 1e9, 6e-8, 2e-8, 3e-5, 1.0009765625, -0.0]
)
def test_half_argument_is_rounded_as_numpy_rounds(opencl, value):
    (about,) = [device for device in runtime.opencl_devices() if device["selected"]]
    if not about["half"]:
        pytest.skip(f"{about['name']} has no half precision")
    source = """
    #pragma OPENCL EXTENSION cl_khr_fp16 : enable
    __kernel void k(__global half* out, half value) { out[0] = value; }
    """
    module = opencl_module({"k": ((POINTER, FLOAT16), X)}, {"k": source})
    out = tvm.runtime.tensor(np.zeros(1, "float16"), opencl)
    module["k"](out, value, 1, 1)
    with np.errstate(over="ignore"):
        expected = np.float16(np.float32(value))
    assert out.numpy().view("uint16")[0] == expected.view("uint16")


def test_launch_shape_over_three_axes(opencl):
    source = """
    __kernel void k(__global int* out) {
      int width = get_global_size(0), height = get_global_size(1);
      int at = (get_global_id(2) * height + get_global_id(1)) * width + get_global_id(0);
      out[at] = get_local_size(0) * 100 + get_local_size(1) * 10 + get_local_size(2);
    }
    """
    tags = ("blockIdx.z", "threadIdx.x", "blockIdx.x", "threadIdx.z", "threadIdx.y", "blockIdx.y")
    module = opencl_module({"k": ((POINTER,), tags)}, {"k": source})
    out = tvm.runtime.tensor(np.zeros(2 * 4 * 6 * 15, "int32"), opencl)
    module["k"](out, 1, 4, 2, 3, 5, 6)  # in the order of the tags
    np.testing.assert_array_equal(out.numpy(), [453] * (4 * 2 * 5 * 6 * 3 * 1))


def test_dimension_of_size_zero_launches_nothing(opencl):
    module = opencl_module({"add_one": (ADD_ONE_ARGS, X)}, {"add_one": ADD_ONE})
    out = tvm.runtime.tensor(np.zeros(4, "float32"), opencl)
    runtime.reset_counters()
    module["add_one"](out, out, 0, 0, 0, 64)
    assert out.numpy().tolist() == [0, 0, 0, 0]
    assert runtime.counters()["kernel_launches"] == 0


def test_source_that_does_not_compile_names_kernel_and_line(opencl):
    source = "__kernel void k(__global float* out) { out[0] = no_such_thing; }"
    module = opencl_module({"k": ((POINTER,), X)}, {"k": source})
    with pytest.raises(errors.DeviceFailure) as caught:
        runtime.prepare(module)
    message = str(caught.value)
    assert "kernel k does not compile on" in message
    assert "no_such_thing" in message
    assert len(message.splitlines()) <= 13


def test_missing_kernel_is_named(opencl):
    module = opencl_module({"k": ((POINTER,), X)}, {"k": "__kernel void other(int x) {}"})
    with pytest.raises(errors.DeviceFailure, match="no kernel k in its program"):
        runtime.prepare(module)


def test_host_memory_is_refused(opencl):
    module = opencl_module({"add_one": (ADD_ONE_ARGS, X)}, {"add_one": ADD_ONE})
    tensor = tvm.runtime.tensor(np.zeros(4, "float32"), opencl)
    host = tvm.runtime.tensor(np.zeros(4, "float32"), tvm.cpu())
    with pytest.raises(ValueError, match=r"argument 1 of kernel add_one is not memory of"):
        module["add_one"](tensor, host, 4, 0, 1, 4)
    runtime.gpu_wait()


def test_wrong_number_of_arguments_is_refused(opencl):
    module = opencl_module({"add_one": (ADD_ONE_ARGS, X)}, {"add_one": ADD_ONE})
    with pytest.raises(TypeError, match="takes 4 arguments and 2 launch parameters, got 1 in all"):
        module["add_one"](1)


def test_second_opencl_device_is_refused(opencl):
    assert not tvm.device("opencl", 1).exist
    with pytest.raises(ValueError, match="opencl:1: only opencl:0 is open"):
        tvm.runtime.empty((1,), "float32", tvm.device("opencl", 1))


def test_wait_costs_nothing_when_nothing_is_pending(opencl):
    runtime.gpu_wait()
    runtime.reset_counters()
    runtime.gpu_wait()
    assert runtime.counters()["gpu_waits"] == 0


def test_wait_passes_its_argument_through(opencl):
    tensor = tvm.runtime.empty((1,), "float32", opencl)
    assert tvm.get_global_func("hetero_tvm.gpu_wait")(tensor).same_as(tensor)
