"""CPU operators become host kernels, and the GPU is waited for where data needs it."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from on_gpu import device, gpu_spec, lower, normal
from tvm import relax

from hetero_tvm import vm_lowering
from relay_passes.lower_cpu import HOST_ATTR, LowerCpu, is_call_tir
from relay_passes.plan import OpPlan, Plan
from relay_passes.plan_memory import NUMBER, WAIT
from schedules.host import host_rules
from schedules.tvm_target import tvm_target


def _plan(*on_cpu: str) -> Plan:
    ops = [
        OpPlan(name=name, op="", device="cpu", reason="", cost_us={"cpu": 1.0}, declined={}, macs=0)
        for name in on_cpu
    ]
    return Plan(ops=tuple(ops), predicted_us=0.0)


def _mixed() -> tvm.IRModule:
    """GPU, two on the CPU, GPU, one on the CPU."""
    x = relax.Var("x", relax.TensorType((8, 16), "float32"))
    weight = relax.const(normal(1, 16, 16))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            a = builder.emit(relax.op.matmul(x, weight), "product")
            b = builder.emit(relax.op.cumsum(a, axis=1), "running")
            c = builder.emit(relax.op.sort(b, axis=1), "sorted")
            d = builder.emit(relax.op.nn.relu(relax.op.matmul(c, weight)), "again")
            e = builder.emit_output(relax.op.exp(d), "last")
        builder.emit_func_output(e)
    return builder.get()


def _calls(mod: tvm.IRModule) -> list[str]:
    """What `main` does, in order."""
    names = []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            callee = value.args[0] if is_call_tir(value) else getattr(value, "op", None)
            if isinstance(callee, tvm.ir.GlobalVar):
                on_cpu = HOST_ATTR in mod[callee].attrs
                names.append("cpu" if on_cpu else "gpu")
            elif isinstance(callee, relax.ExternFunc) and str(callee.global_symbol) == WAIT:
                devices = {number: device for device, number in NUMBER.items()}
                waiter, on = (devices[int(arg.value)] for arg in value.args[:2])
                names.append(f"wait {waiter} {on}")
    return names


def _lowered() -> tvm.IRModule:
    mod = LowerCpu(_plan("running", "sorted", "last"), host_rules())(_mixed())
    return lower(mod)


def _waited(mod: tvm.IRModule) -> tvm.IRModule:
    """With memory planned."""
    passes = vm_lowering.lower_to_vm()
    names = [step.info.name for step in passes]
    return tvm.transform.Sequential(passes[: names.index("PlanMemory") + 1])(mod)


def test_host_kernels_are_never_fused_with_others():
    mod = _lowered()
    assert _calls(mod) == ["gpu", "cpu", "cpu", "gpu", "cpu"]


def test_names_survive():
    names = [b.var.name for block in _lowered()["main"].body.blocks for b in block.bindings]
    assert {"running", "sorted"} <= set(names)


def test_a_wait_stands_between_gpu_work_and_every_cpu_kernel():
    wait = "wait cpu gpu"
    assert _calls(_waited(_lowered())) == ["gpu", wait, "cpu", "cpu", "gpu", wait, "cpu"]


def test_a_cpu_kernel_that_comes_first_waits_for_the_callers_work():
    x = relax.Var("x", relax.TensorType((8,), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit(relax.op.exp(x), "first")
            result = builder.emit_output(relax.op.nn.relu(result), "second")
        builder.emit_func_output(result)
    mod = lower(LowerCpu(_plan("first"), host_rules())(builder.get()))
    assert _calls(_waited(mod)) == ["wait cpu gpu", "cpu", "gpu"]


def test_no_later_pass_drops_the_waits():
    passes = vm_lowering.lower_to_vm()
    text = tvm.transform.Sequential(passes)(_lowered())["main"].script()
    assert text.count(WAIT) == 2
    again = relax.transform.DeadCodeElimination()(_waited(_lowered()))
    assert _calls(again).count("wait cpu gpu") == 2


def test_a_module_without_cpu_operators_is_unchanged():
    mod = _mixed()
    assert LowerCpu(_plan())(mod).same_as(mod)
    assert _calls(_waited(lower(_mixed_without_scans()))) == ["gpu"]


def _mixed_without_scans() -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType((8, 16), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(relax.op.exp(x))
        builder.emit_func_output(result)
    return builder.get()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_numbers_across_the_border(seed):
    dev = device()
    executable = vm_lowering.compile_executable(_lowered(), tvm_target(gpu_spec()), None)
    machine = relax.VirtualMachine(executable, dev)
    x, weight = normal(seed, 8, 16), normal(1, 16, 16).astype(np.float64)
    sorted_sums = np.sort(np.cumsum(x @ weight, axis=1), axis=1)
    want = np.exp(np.minimum(np.maximum(sorted_sums @ weight, 0), 80))
    got = machine["main"](tvm.runtime.tensor(x, dev)).numpy()
    # exp of values up to 80 magnifies the rounding of its argument by as much.
    np.testing.assert_allclose(np.minimum(got, want.max()), want, rtol=1e-2)
