"""The checker of order: silent about what is right, and it names what is not."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tvm
from device_programs import Builder, Machine, device_of, meaning, programs
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import IRModule, relax

from relay_passes.attention import update_kv_kernel
from relay_passes.ordering import CheckOrder, DisorderError, violations
from relay_passes.plan_memory import NUMBER, VIEW, WAIT, PlanMemory, npu_or_kernel


def _is_wait(binding):
    return str(getattr(getattr(binding.value, "op", None), "global_symbol", "")) == WAIT


def without_waits(mod, dropped=lambda _: True):
    """The planned module without the waits for which `dropped(index)`."""
    main = mod["main"]
    bindings, index = [], 0
    for binding in main.body.blocks[0].bindings:
        index += _is_wait(binding)
        if not _is_wait(binding) or not dropped(index):
            bindings.append(binding)
    body = relax.SeqExpr([relax.BindingBlock(bindings)], main.body.body)
    return IRModule({"main": relax.Function(main.params, body, main.ret_ty, main.is_pure)})


def complaints(build, outputs, kept=()):
    """Of the planned program with only the waits in `kept`."""
    planned = PlanMemory(device_of)(build.finish(outputs).mod)
    return violations(without_waits(planned, lambda index: index not in kept), device_of)


@given(programs(), st.integers(0, 2**32), st.sampled_from([0.0, 0.3]))
@settings(max_examples=200)
def test_what_computes_wrong_numbers_is_reported(program, seed, eager):
    """Random waits are gone: either all is still right, or the checker knows."""
    rng = random.Random(seed)
    planned = without_waits(PlanMemory(device_of)(program.mod), lambda _: rng.random() < 0.4)
    if violations(planned, device_of):
        return
    got = Machine(program, planned, eager, seed).run()
    for ours, theirs in zip(got, meaning(program), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_missing_wait_does_harm():
    """The machine that the checker is compared with does show what it is to show."""
    build = Builder(8)
    (a,) = build.compute("npu", build.params, 8)
    (b,) = build.compute("gpu", [a], 8)
    program = build.finish([b])
    planned = PlanMemory(device_of)(program.mod)
    changed = without_waits(planned, lambda index: index == 2)
    # The kernel runs only when the outputs are read, the region when the function returns: late.
    (right,) = Machine(program, planned, 0.0, 0).run()
    np.testing.assert_array_equal(right, meaning(program)[0])
    machine = Machine(program, changed, 0.0, 0)
    machine._until = lambda device, count, until=machine._until: (
        until("gpu", len(machine.queues["gpu"])) or until(device, count)
    )
    (wrong,) = machine.run()
    assert not np.array_equal(wrong, right)


def test_reading_what_is_not_written_yet():
    build = Builder(8)
    (a,) = build.compute("npu", [], 8)
    (b,) = build.compute("gpu", [a], 8)
    said = complaints(build, [b])
    assert any("gpu_1_3 reads storage on the gpu and does not wait for npu_0_1" in s for s in said)
    assert any("npu_0_1 may run on when the function has returned" in s for s in said)


def test_inputs_may_still_be_written_by_the_caller():
    build = Builder(8)
    said = complaints(build, build.compute("npu", build.params, 8), kept=(2,))
    assert any("reads input0 on the npu and does not wait for the caller's work" in s for s in said)
    build = Builder(8)
    assert complaints(build, build.compute("gpu", build.params, 8)) == []


def test_what_a_kernel_changes_in_place_is_waited_for():
    """A region reads a cache that the GPU has written rows into; no allocation shows the write."""
    shape = (1, 2, 16, 8)
    cache, rows = (relax.Var(name, relax.TensorType(shape, "float32")) for name in ("c", "r"))
    past = relax.Var("past", relax.TensorType((1,), "int32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [cache, rows, past]):
        # The NPU waits here for whatever the caller gave the GPU to do: not for what comes now.
        first = builder.emit(relax.op.call_dps_packed("region", [rows], cache.ty))
        kernel = builder.add_func(update_kv_kernel(shape, shape, "float32"), "update_kv")
        call = relax.op.call_tir_inplace(kernel, [cache, rows, past], [0], [cache.ty])
        second = builder.emit(relax.op.call_dps_packed("region", [builder.emit(call)], cache.ty))
        builder.emit_func_output(relax.Tuple([first, second]))
    where = npu_or_kernel(["region"], "host")
    planned = PlanMemory(where)(relax.transform.CallTIRRewrite()(builder.get()))
    assert violations(planned, where) == []
    waits = [b for b in planned["main"].body.blocks[0].bindings if _is_wait(b)]
    on_gpu = [
        number
        for number, wait in enumerate(waits, 1)
        if [int(arg.value) for arg in wait.value.args] == [NUMBER["npu"], NUMBER["gpu"]]
    ]
    assert len(on_gpu) == 2
    changed = without_waits(planned, lambda index: index == on_gpu[1])
    changed.update(IRModule({kernel: planned[kernel.name_hint]}))
    (said,) = violations(changed, where)
    assert "reads c on the npu and does not wait for" in said


def test_fresh_memory_may_still_be_used_by_the_caller():
    build = Builder(8)
    said = complaints(build, build.compute("cpu", [], 8))
    assert any("cpu_0_1 touches t0_0_0_memory" in s and "the caller's memory" in s for s in said)


def _by_hand(*lines):
    """`storage s`, `tensor t s`, `view v t offset elements`, `call gpu a b`, `wait npu gpu`."""
    names, bindings, builder = {}, [], relax.BlockBuilder()

    def bind(name, value):
        value = builder.normalize(value)
        names[name] = relax.Var(name, value.ty)
        bindings.append(relax.VarBinding(names[name], value))

    for line in lines:
        what, *rest = line.split()
        if what == "storage":
            size = relax.ShapeExpr([64])
            bind(rest[0], relax.op.memory.alloc_storage(size, 0, "global", "uint8"))
        elif what == "tensor":
            shape = relax.ShapeExpr([16])
            bind(rest[0], relax.op.memory.alloc_tensor(names[rest[1]], 0, shape, "float32"))
        elif what == "view":
            ty = relax.TensorType((int(rest[3]),), "float32")
            args = [names[rest[1]], relax.prim_value(int(rest[2])), relax.ShapeExpr([int(rest[3])])]
            bind(rest[0], relax.Call(relax.ExternFunc(VIEW), args, ty_args=[ty]))
        else:
            numbers = {"cpu": 0, "gpu": 1, "npu": 2}
            symbol = WAIT if what == "wait" else f"{rest[0]}_{len(bindings)}"
            args = (
                [relax.prim_value(numbers[d]) for d in rest]
                if what == "wait"
                else [names[n] for n in rest[1:]]
            )
            call = relax.Call(relax.ExternFunc(symbol), args, ty_args=[relax.TupleType([])])
            bind(f"{what}_{len(bindings)}", call)
    body = relax.SeqExpr([relax.BindingBlock(bindings)], relax.Tuple([]))
    main = relax.Function([], body, relax.TupleType([]), is_pure=False)
    return IRModule({"main": main})


RUN = ("wait npu gpu", "storage s", "tensor a s")
BOTH = (*RUN, "view a0 a 0 8", "view a1 a 32 8")
CASES = {
    "parts_of_one_buffer_at_the_same_time": ((*BOTH, "call npu a0", "call gpu a1"), None),
    "parts_that_overlap": (
        (*BOTH, "view a2 a 16 8", "call npu a0", "call gpu a2"),
        "reads bytes that nothing wrote",
    ),
    "write_after_read": (
        (*RUN, "call gpu a", "call gpu a", "tensor b s", "call npu b"),
        "call_6 writes s on the npu and does not wait for call_4, which reads it on the gpu",
    ),
    "write_after_read_with_its_wait": (
        (*RUN[1:], "call gpu a", "call gpu a", "tensor b s", "wait npu gpu", "call npu b"),
        None,
    ),
    "a_wait_before_the_work_is_none": (
        (*BOTH, "wait gpu npu", "call npu a0", "call gpu a0"),
        "reads s on the gpu and does not wait for call_6",
    ),
    "a_wait_of_the_other_device_is_none": (
        (*BOTH, "call npu a0", "wait npu gpu", "call gpu a0"),
        "reads s on the gpu and does not wait for call_5",
    ),
    "through_the_cpu": ((*BOTH, "call npu a0", "wait cpu npu", "call gpu a0"), None),
    "through_a_third_device": (
        (*BOTH, "call npu a0", "wait gpu npu", "call gpu a0", "wait cpu gpu", "call cpu a0"),
        None,
    ),
    "a_wait_carries_what_its_device_did_not_use": (
        # The NPU heard of the kernel but did nothing since: who waits for it learns nothing.
        (*BOTH, "call npu a0", "call gpu a1", "wait npu gpu", "wait cpu npu", "call cpu a1"),
        "reads s on the cpu and does not wait for call_6",
    ),
    "freed_memory_is_given_out_again": (
        (*RUN, "call gpu a", "storage r", "tensor b r", "call npu b"),
        "touches r on the npu and does not wait for call_3 on the gpu, whose s may have been",
    ),
    "a_job_keeps_its_memory": (
        (*RUN, "call npu a", "storage r", "tensor b r", "call gpu b"),
        None,
    ),
    "a_view_beyond_its_tensor": (
        ("wait npu gpu", "storage s", "tensor a s", "view b a 60 2", "call gpu b"),
        "b reaches beyond what it is a view of",
    ),
}


@pytest.mark.parametrize(("lines", "message"), CASES.values(), ids=CASES)
def test_by_hand(lines, message):
    found = violations(_by_hand(*lines, "wait cpu npu"), device_of)
    if message is None:
        assert found == []
    else:
        assert any(message in line for line in found), found


def test_a_build_refuses_what_is_not_ordered():
    """As a bug of ours, with the first place; what is ordered it leaves as it is."""
    good = _by_hand(*CASES["through_the_cpu"][0], "wait cpu npu")
    tvm.ir.assert_structural_equal(CheckOrder(device_of)(good), good)
    bad = _by_hand(*CASES["write_after_read"][0], "wait cpu npu")
    with pytest.raises(
        DisorderError, match=r"memory is touched out of order: main: call_6 writes s"
    ):
        CheckOrder(device_of)(bad)
