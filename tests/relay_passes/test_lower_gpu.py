"""The whole lowering: fused, scheduled, named kernels; foreign calls pass through."""

from __future__ import annotations

import numpy as np
import tvm
from on_gpu import assert_close, kernels, lower, module, normal, run_lowered
from tvm import relax, tirx
from tvm.ir import Op

from relay_passes.lower_gpu import OPS_ATTR


def _network() -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType((1, 3, 12, 12), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            conv = builder.emit(
                relax.op.nn.conv2d(x, relax.const(normal(1, 8, 3, 3, 3)), strides=[2, 2]), "conv"
            )
            active = builder.emit(relax.op.nn.relu(conv), "active")
            flat = builder.emit(relax.op.reshape(active, (1, 200)), "flat")
            scores = builder.emit(relax.op.matmul(flat, relax.const(normal(2, 200, 10))), "scores")
            result = builder.emit_output(relax.op.nn.softmax(scores), "chances")
        builder.emit_func_output(result)
    return builder.get()


def test_every_kernel_is_scheduled_and_says_what_it_computes():
    lowered = lower(_network())
    relax.analysis.well_formed(lowered)
    named = [set(kernel.attrs[OPS_ATTR]) for kernel in kernels(lowered).values()]
    assert any(names >= {"conv", "active"} for names in named)
    assert {"scores"} in named
    assert {"chances"} in named
    assert all(kernel.attrs["tirx.is_scheduled"] == 1 for kernel in kernels(lowered).values())


def test_a_reshape_is_a_view_and_no_kernel():
    def build(x):
        product = relax.op.matmul(x, relax.const(normal(1, 16, 24)))
        return relax.op.matmul(relax.op.reshape(product, (6, 32)), relax.const(normal(2, 32, 8)))

    lowered = lower(module(build, ((8, 16), "float32")))
    values = [b.value for block in lowered["main"].body.blocks for b in block.bindings]
    assert [value.op for value in values if isinstance(value, relax.Call)] == [
        Op.get("relax.call_tir"),
        Op.get("relax.reshape"),
        Op.get("relax.call_tir"),
    ]


def test_no_high_level_operator_is_left():
    allowed = {Op.get("relax.call_tir"), Op.get("relax.reshape")}
    for block in lower(_network())["main"].body.blocks:
        for binding in block.bindings:
            assert not isinstance(binding.value, relax.Call) or binding.value.op in allowed


def test_a_call_to_an_npu_region_passes_through_between_kernels():
    x = relax.Var("x", relax.TensorType((4, 8), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            before = builder.emit(relax.op.exp(x), "before")
            region = relax.op.call_dps_packed(
                "npu_region_0", (before,), out_ty=relax.TensorType((4, 8), "float32")
            )
            inside = builder.emit(region, "inside")
            result = builder.emit_output(relax.op.nn.relu(inside), "after")
        builder.emit_func_output(result)
    lowered = lower(builder.get())
    values = [b.value for block in lowered["main"].body.blocks for b in block.bindings]
    assert [value.op for value in values] == [
        Op.get("relax.call_tir"),
        Op.get("relax.call_dps_packed"),
        Op.get("relax.call_tir"),
    ]
    assert values[1].args[0].global_symbol == "npu_region_0"


def test_host_kernels_are_not_rescheduled():
    a = tvm.te.placeholder((8,), name="a")
    host = tvm.te.create_prim_func([a, tvm.te.compute((8,), lambda i: a[i] + 1)])
    host = host.with_attrs({"tirx.is_host_func": True, "tirx.is_scheduled": True, "op_pattern": 8})
    x = relax.Var("x", relax.TensorType((8,), "float32"))
    builder = relax.BlockBuilder()
    function = builder.add_func(host.without_attr("global_symbol"), "add_one")
    with builder.function("main", [x]):
        with builder.dataflow():
            shifted = builder.emit(
                relax.op.call_tir(function, [x], out_ty=relax.TensorType((8,), "float32"))
            )
            result = builder.emit_output(relax.op.exp(shifted))
        builder.emit_func_output(result)
    lowered = lower(builder.get())
    (kept,) = [f for f in lowered.functions.values() if _is_host(f)]
    assert "blockIdx" not in kept.script()


def _is_host(func) -> bool:
    return isinstance(func, tirx.PrimFunc) and "tirx.is_host_func" in func.attrs


def test_numbers():
    x = normal(3, 1, 3, 12, 12)
    (got,) = run_lowered(lower(_network()), [x])
    target = tvm.target.Target({"kind": "llvm"})
    machine = relax.VirtualMachine(tvm.compile(_network(), target=target), tvm.cpu())
    want = machine["main"](tvm.runtime.tensor(x)).numpy()
    assert_close(got, want.astype(np.float64), 1e-4)  # exp magnifies the rounding of the scores
