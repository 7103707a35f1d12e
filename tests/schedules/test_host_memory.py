"""CPU kernels take tensors of the OpenCL device; every other check of an argument stays."""

from __future__ import annotations

import pytest
import tvm
from tvm import te, tirx
from tvm.s_tir.pipeline import default_s_tir_pipeline

from schedules.host_memory import AcceptUnifiedMemory, host_memory_pipeline
from schedules.tvm_target import tvm_target


def _lowered(*, on_host: bool) -> tvm.IRModule:
    from on_gpu import gpu_spec

    a = te.placeholder((8,), name="a")
    func = te.create_prim_func([a, te.compute((8,), lambda i: a[i] + 1)])
    func = func.with_attr("global_symbol", "add_one")
    if on_host:
        func = func.with_attr("tirx.is_host_func", True)
    else:
        sch = tvm.s_tir.Schedule(func)
        (block,) = sch.get_child_blocks(sch.get_sblock("root"))
        sch.bind(sch.get_loops(block)[0], "blockIdx.x")
        func = sch.mod["main"].with_attr("global_symbol", "add_one")
    pipeline, _, _ = default_s_tir_pipeline()
    bound = tirx.transform.BindTarget(tvm_target(gpu_spec()))(tvm.IRModule({"add_one": func}))
    return pipeline(bound)


def test_the_device_check_of_a_cpu_kernel_goes_and_the_others_stay():
    before = _lowered(on_host=True)
    after = AcceptUnifiedMemory()(before)
    text = after["add_one"].script()
    assert before["add_one"].script().count(', 0, 10, "int32") == 1') == 2
    assert ', 0, 10, "int32") == 1' not in text
    for check in ("dtype on argument", "ndim on argument"):
        assert text.count(check) == before["add_one"].script().count(check) > 0


def test_a_gpu_launcher_keeps_its_device_check():
    before = _lowered(on_host=False)
    tvm.ir.assert_structural_equal(AcceptUnifiedMemory()(before), before)


@pytest.mark.parametrize("native_half", [False, True])
def test_the_pipeline_can_be_named_to_tvm(native_half):
    name = host_memory_pipeline(native_half=native_half)
    passes, _, _ = tirx.get_tir_pipeline(name)
    assert passes is not None
    assert host_memory_pipeline(native_half=native_half) == name  # twice is as good as once


def test_halves_that_are_put_together_stay_vectors():
    """TVM alone takes the vector apart: the condition on its lanes is the same for all of them."""
    from on_gpu import gpu_spec

    a = te.placeholder((4, 64), name="a")
    rotated = te.compute(
        (4, 64), lambda i, j: tirx.if_then_else(j >= 32, a[i, j - 32], a[i, (j + 32) % 64] * -1)
    )
    sch = tvm.s_tir.Schedule(te.create_prim_func([a, rotated]))
    (block,) = sch.get_child_blocks(sch.get_sblock("root"))
    rows, columns = sch.get_loops(block)
    _, lanes = sch.split(columns, [None, 16])
    sch.vectorize(lanes)
    sch.bind(rows, "blockIdx.x")
    func = sch.mod["main"].with_attr("global_symbol", "rotate")
    bound = tirx.transform.BindTarget(tvm_target(gpu_spec()))(tvm.IRModule({"rotate": func}))
    alone, _, _ = default_s_tir_pipeline()
    ours, _, _ = tvm.tirx.get_tir_pipeline(host_memory_pipeline())
    assert "T.Broadcast(" not in alone(bound).script()
    assert "T.Broadcast(" in ours(bound).script()
