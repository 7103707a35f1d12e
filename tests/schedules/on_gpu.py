"""Build one Relax function for the OpenCL device, run it there, and compare.

Skips where there is no OpenCL device, with the reason.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import IRModule, relax, tirx

from hetero_tvm import errors, runtime, vm_lowering
from relay_passes.lower_gpu import lower_gpu
from schedules.defaults import default_legalizations, default_rules
from schedules.host_memory import host_memory_pipeline
from schedules.tvm_target import tvm_target
from target_specs.loader import load_spec


@functools.cache
def gpu_spec(name: str = "host"):
    """The GPU of a target."""
    return load_spec(name).gpu


def device() -> tvm.runtime.Device:
    """The OpenCL device of this machine."""
    try:
        return runtime.open_opencl()
    except errors.EnvironmentProblem as problem:
        pytest.skip(str(problem))


def module(build: Callable[..., relax.Expr], *types: tuple[tuple[int, ...], str]) -> IRModule:
    """`main` of one dataflow block: `build` gets its parameters and returns the result."""
    params = [
        relax.Var(f"x{n}", relax.TensorType(shape, dtype)) for n, (shape, dtype) in enumerate(types)
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(builder.normalize(build(*params)))
        builder.emit_func_output(result)
    return builder.get()


def lower(mod: IRModule, target: str = "host") -> IRModule:
    """All of the GPU lowering."""
    gpu = gpu_spec(target)
    return lower_gpu(
        mod,
        target=tvm_target(gpu),
        legalizations=default_legalizations(gpu),
        rules=default_rules(gpu),
    )


def kernels(mod: IRModule) -> dict[str, tirx.PrimFunc]:
    """The kernels that `main` calls."""
    called = {
        binding.value.args[0].name_hint
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
        and binding.value.op == tvm.ir.Op.get("relax.call_tir")
    }
    return {var.name_hint: mod[var] for var in mod.functions if var.name_hint in called}


def run_lowered(
    mod: IRModule, arrays: list[np.ndarray], *, target: str = "host", native_half: bool = False
) -> list[np.ndarray]:
    """Compile a lowered module and run it once."""
    dev = device()
    executable = tvm.compile(
        mod,
        target=tvm_target(gpu_spec(target)),
        relax_pipeline=tvm.transform.Sequential(vm_lowering.lower_to_vm()),
        tir_pipeline=host_memory_pipeline(native_half=native_half),
    )
    machine = relax.VirtualMachine(executable, dev)
    result = machine["main"](*(tvm.runtime.tensor(array, dev) for array in arrays))
    results = [result] if hasattr(result, "numpy") else list(result)
    return [tensor.numpy() for tensor in results]


def run(build: Callable[..., relax.Expr], *arrays: np.ndarray, target: str = "host") -> np.ndarray:
    """Lower, compile and run `build` on `arrays`; the one result."""
    mod = module(build, *((array.shape, str(array.dtype)) for array in arrays))
    (result,) = run_lowered(lower(mod, target), list(arrays), target=target)
    return result


def normal(seed: int, *shape: int, dtype: str = "float32") -> np.ndarray:
    """Reproducible standard normal values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_close(got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    """The largest difference is at most `tolerance` of the largest value."""
    assert got.shape == want.shape
    scale = max(float(np.abs(want).max(initial=0)), 1e-6)
    error = float(np.abs(got.astype(np.float64) - want).max(initial=0)) / scale
    assert error <= tolerance, f"relative error {error:.2e}"
