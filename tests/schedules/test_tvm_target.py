"""A spec's limits reach TVM."""

from __future__ import annotations

from on_gpu import gpu_spec

from schedules.tvm_target import cpu_target, tvm_target


def test_limits_come_from_the_spec():
    gpu = gpu_spec("snapdragon-8-gen-3")
    target = tvm_target(gpu)
    assert target.kind.name == "opencl"
    assert target.attrs["max_num_threads"] == gpu.max_work_group_size
    assert target.attrs["max_shared_memory_per_block"] == gpu.local_memory_bytes


def test_no_barrier_is_left_out_inside_a_wave():
    assert tvm_target(gpu_spec("snapdragon-8-gen-3")).attrs["thread_warp_size"] == 1


def test_the_host_is_llvm_for_the_triple_that_is_asked_for():
    host = {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}
    assert tvm_target(gpu_spec(), host).host.attrs["mtriple"] == "aarch64-linux-gnu"
    assert cpu_target(host).attrs["mtriple"] == "aarch64-linux-gnu"
    assert cpu_target().kind.name == "llvm"
