"""With float16 tensors, kernels compute in float32 and touch half only to load and store it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from on_gpu import assert_close, device, gpu_spec, lower, module, normal, run_lowered
from tvm import relax

from hetero_tvm import vm_lowering
from schedules.host_memory import host_memory_pipeline
from schedules.tvm_target import tvm_target

_HALF_ULP = 2.0**-11  # relative, of one rounding to float16


def _source(mod: tvm.IRModule, *, native_half: bool = False) -> str:
    executable = tvm.compile(
        mod,
        target=tvm_target(gpu_spec()),
        relax_pipeline=tvm.transform.Sequential(vm_lowering.lower_to_vm()),
        tir_pipeline=host_memory_pipeline(native_half=native_half),
    )
    pending, sources = list(executable.mod.imports), []
    while pending:
        part = pending.pop()
        pending.extend(part.imports)
        if part.kind == "opencl":
            sources.append(part.inspect_source())
    return "\n".join(sources)


def _chain(x):
    weight = relax.const(normal(1, 24, 40, dtype="float16"))
    product = relax.op.nn.relu(relax.op.matmul(x, weight))
    return relax.op.nn.softmax(relax.op.permute_dims(product, [1, 0]))


@pytest.fixture(scope="module")
def lowered():
    return lower(module(_chain, ((32, 24), "float16")))


def test_half_is_only_loaded_and_stored(lowered):
    source = _source(lowered)
    assert "vload_half16(" in source
    assert "vstore_half" in source
    assert "#error" not in source
    # `half` appears as a pointer's element type and in the names of the loads, nowhere else.
    assert not re.findall(r"(?<!global )\bhalf\d*\b(?! ?\*)", source)
    assert not re.findall(r"\bconvert_half", source)


def test_native_half_keeps_plain_loads(lowered):
    source = _source(lowered, native_half=True)
    assert "vload_half" not in source
    assert "half" in source


@pytest.mark.parametrize("native_half", [False, True])
def test_numbers(lowered, native_half):
    dev = device()
    if native_half and "fp16" not in _extensions(dev):
        pytest.skip("the OpenCL device has no cl_khr_fp16")
    x = normal(2, 32, 24, dtype="float16")
    weight = normal(1, 24, 40, dtype="float16")
    (got,) = run_lowered(lowered, [x], native_half=native_half)
    product = np.maximum(x.astype(np.float64) @ weight.astype(np.float64), 0).T
    power = np.exp(product - product.max(-1, keepdims=True))
    # Scores up to about 20 are stored once as float16, which moves exp by 20 * half an ulp.
    assert_close(got, power / power.sum(-1, keepdims=True), 24 * _HALF_ULP)


def test_long_sums_are_not_rounded_on_the_way():
    ones = np.ones((1, 4096), "float16")
    (got,) = run_lowered(
        lower(module(lambda x: relax.op.sum(x, axis=[1]), ((1, 4096), "float16"))), [ones]
    )
    assert got[0] == 4096  # in half, 2048 + 1 == 2048


@pytest.mark.parametrize("axes", [[1, 0], [0, 1]])
def test_strided_copies(axes):
    x = normal(3, 33, 48, dtype="float16")
    mod = lower(module(lambda v: relax.op.permute_dims(v, axes), ((33, 48), "float16")))
    (got,) = run_lowered(mod, [x])
    np.testing.assert_array_equal(got, x.transpose(axes))


def test_remainders():
    x, y = normal(4, 14, dtype="float16"), normal(5, 14, dtype="float16")
    mod = lower(module(lambda a, b: relax.op.mod(a, b) + b, *[((14,), "float16")] * 2))
    (got,) = run_lowered(mod, [x, y])
    want = np.fmod(x.astype(np.float32), y.astype(np.float32)) + y
    assert_close(got, want, 2 * _HALF_ULP)


def test_float32_kernels_are_untouched():
    source = _source(lower(module(relax.op.exp, ((64,), "float32"))))
    assert "half" not in source


def _extensions(dev) -> str:
    from hetero_tvm import runtime

    names = [d for d in runtime.opencl_devices() if d["name"] == dev.device_name]
    return "fp16" if names and names[0]["half"] else ""
