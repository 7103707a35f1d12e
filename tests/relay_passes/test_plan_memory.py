"""Memory and waits: right numbers at any pace, no wait too many, no byte more."""

from __future__ import annotations

import math

import numpy as np
import pytest
from device_programs import Builder, Machine, device_of, meaning, programs
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from relay_passes.ordering import violations
from relay_passes.plan_memory import NUMBER, VIEW, WAIT, PlanMemory
from relay_passes.program import PlacementError
from relay_passes.split_tensor import JOIN, SLICE

DEVICES = {number: device for device, number in NUMBER.items()}


def plan(program):
    return PlanMemory(device_of)(program.mod)


def calls(mod):
    """`gpu_0`, `wait npu gpu`, .. in order."""
    found = []
    for binding in mod["main"].body.blocks[0].bindings:
        value = binding.value
        if isinstance(value, relax.Call) and isinstance(value.op, relax.ExternFunc):
            symbol = str(value.op.global_symbol)
            if symbol == WAIT:
                waiter, on, *behind = (int(arg.value) for arg in value.args)
                symbol = " ".join(["wait", DEVICES[waiter], DEVICES[on], *map(str, behind)])
            if symbol != VIEW:
                found.append(symbol)
    return found


def planned_bytes(mod):
    """Memory that the function allocates."""
    total = 0
    for binding in mod["main"].body.blocks[0].bindings:
        op = getattr(getattr(binding.value, "op", None), "name", None)
        if op == "relax.memory.alloc_storage":
            total += int(binding.value.args[0][0].value)
        elif op == "relax.builtin.alloc_tensor":
            total += 64 * -(-4 * math.prod(int(d.value) for d in binding.var.ty.shape) // 64)
    return total


def without_reuse(program):
    """Every tensor in memory of its own, in whole cache lines; what is joined in one piece."""
    joined, total = set(), 0
    for binding in reversed(program.mod["main"].body.blocks[0].bindings):
        value, size = binding.value, 0
        if isinstance(value, relax.Call) and isinstance(value.op, relax.ExternFunc):
            if str(value.op.global_symbol) == JOIN:
                joined.update(value.args)
                size = math.prod(int(d.value) for d in binding.var.ty.shape)
        elif value.op.name == "relax.builtin.alloc_tensor" and binding.var not in joined:
            size = math.prod(int(d.value) for d in binding.var.ty.shape)
        total += 64 * -(-4 * size // 64)
    return total


@given(programs(), st.sampled_from([0.0, 0.3, 0.6]), st.integers(0, 1000))
@settings(max_examples=200)
def test_numbers_at_any_pace(program, eager, seed):
    planned = plan(program)
    got = Machine(program, planned, eager, seed).run()
    for ours, theirs in zip(got, meaning(program), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@given(programs())
@settings(max_examples=200)
def test_everything_is_ordered_and_no_wait_is_too_many(program):
    planned = plan(program)
    assert violations(planned, device_of) == []
    bindings = list(planned["main"].body.blocks[0].bindings)
    for position, binding in enumerate(bindings):
        call = binding.value
        if not isinstance(call, relax.Call) or not isinstance(call.op, relax.ExternFunc):
            continue
        if str(call.op.global_symbol) == WAIT:
            rest = [*bindings[:position], *bindings[position + 1 :]]
            assert violations(_with(planned, rest), device_of), f"{calls(planned)}: {position}"


@given(programs())
@settings(max_examples=200)
def test_never_more_memory_than_without_reuse(program):
    planned = plan(program)
    assert planned_bytes(planned) <= without_reuse(program)
    assert not {JOIN, SLICE} & set(calls(planned))


def _with(mod, bindings):
    main = mod["main"]
    body = relax.SeqExpr([relax.BindingBlock(bindings)], main.body.body)
    changed = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    return type(mod)({"main": changed})


# --- one thing at a time -------------------------------------------------------------------------


def test_a_split_chain_waits_for_nothing_but_its_input_and_its_end():
    build = Builder(16)
    npu, gpu = build.slice(build.params[0], 0, 8), build.slice(build.params[0], 8, 16)
    for _ in range(3):
        (npu,), (gpu,) = build.compute("npu", [npu], 8), build.compute("gpu", [gpu], 8)
    planned = plan(build.finish([build.join(npu, gpu)]))
    assert calls(planned) == [
        "wait npu gpu",  # the caller's kernels may write the input
        *("npu_0", "gpu_1", "npu_2", "gpu_3", "npu_4", "gpu_5"),
        "wait cpu npu",
    ]


def test_parts_of_a_join_are_views_of_one_tensor():
    build = Builder(8)
    (npu,), (gpu,) = build.compute("npu", build.params, 8), build.compute("gpu", build.params, 24)
    joined = build.join(npu, gpu)
    planned = plan(build.finish(build.compute("gpu", [joined], 8)))
    views = [
        (binding.value.args[0].name, int(binding.value.args[1].value))
        for binding in planned["main"].body.blocks[0].bindings
        if getattr(getattr(binding.value, "op", None), "global_symbol", None) == VIEW
    ]
    assert [offset for _, offset in views] == [0, 32]
    assert len({base for base, _ in views}) == 1


def test_one_wait_serves_all_that_was_submitted_before():
    build = Builder(8)
    (a,) = build.compute("gpu", build.params, 8)
    (b,) = build.compute("gpu", build.params, 8)
    (c,) = build.compute("npu", [a], 8)
    (d,) = build.compute("npu", [b, c], 8)
    assert calls(plan(build.finish([d]))) == [
        *("gpu_0", "gpu_1", "wait npu gpu", "npu_2", "npu_3", "wait cpu npu")
    ]


def test_who_waits_for_a_device_that_waited_needs_no_wait_of_its_own():
    """The CPU needs both; the NPU's last job comes after the kernel."""
    build = Builder(8)
    (a,) = build.compute("gpu", build.params, 8)
    (b,) = build.compute("npu", [a], 8)
    made = build.compute("cpu", [a, b], 8)
    assert calls(plan(build.finish(made))) == [
        *("gpu_0", "wait npu gpu", "npu_1", "wait cpu npu", "cpu_2")
    ]


def test_a_wait_that_no_work_followed_shows_nothing():
    """The GPU's part of a join is first; what the NPU will wait for then is not done at once."""
    build = Builder(8, 8)
    (early,) = build.compute("npu", [build.params[0]], 8)
    (kernel,) = build.compute("gpu", build.params, 8)
    (gpu,) = build.compute("gpu", build.params, 8)
    (seen,) = build.compute("cpu", [early], 3)
    (used,) = build.compute("cpu", [kernel], 3)
    (npu,) = build.compute("npu", [early], 8)
    program = build.finish([build.join(npu, gpu), seen, used])
    planned = plan(program)
    assert violations(planned, device_of) == []
    order = calls(planned)
    assert "wait cpu gpu" in order[order.index("cpu_3") : order.index("cpu_4")]


def test_storage_is_allocated_before_anything_is_freed():
    """TVM's pool gives freed storage out while a queued kernel still uses it."""
    build = Builder(1100)
    (a,) = build.compute("gpu", build.params, 1100)
    (b,) = build.compute("gpu", [a], 3)
    made = build.compute("npu", build.params, 1100)
    program = build.finish([*made, b])
    planned = plan(program)
    kinds = [
        "alloc" if "alloc" in getattr(getattr(binding.value, "op", None), "name", "") else "work"
        for binding in planned["main"].body.blocks[0].bindings
        if getattr(getattr(binding.value, "op", None), "name", "") != "relax.memory.alloc_tensor"
    ]
    assert kinds == sorted(kinds)


def test_dead_storage_is_used_again_where_nobody_has_to_wait():
    build = Builder(1100)
    value = build.params[0]
    for _ in range(6):
        (value,) = build.compute("gpu", [value], 1100)
    planned = plan(build.finish(build.compute("gpu", [value], 8)))
    assert planned_bytes(planned) == 2 * 4416 + 64
    assert calls(planned) == [f"gpu_{i}" for i in range(7)]


def test_a_part_without_memory_of_its_own_is_refused():
    build = Builder(8)
    (npu,) = build.compute("npu", build.params, 8)
    view = build.join(npu, build.params[0])
    program = build.finish(build.compute("gpu", [view], 8))
    with pytest.raises(PlacementError, match=r"input0 is not of its own"):
        plan(program)


def test_a_view_of_a_part_is_the_parts_in_the_join_too():
    """The CPU reads what the GPU made, though the NPU's part has as many bytes before it."""
    build = Builder(8)
    (npu,), (gpu,) = build.compute("npu", [], 8), build.compute("gpu", [], 8)
    half = build.slice(gpu, 0, 4)
    joined = build.join(npu, gpu)
    (seen,) = build.compute("cpu", [half], 3)
    planned = plan(build.finish([joined, seen]))
    order = calls(planned)
    assert order[: order.index("cpu_2")] == ["wait npu gpu", "npu_0", "gpu_1", "wait cpu gpu"]
    assert violations(planned, device_of) == []
