"""Names survive fusion, also where equal kernels become one."""

from __future__ import annotations

import tvm
from on_gpu import normal
from tvm import relax
from tvm.relax import transform

from relay_passes.kernel_names import source_names


def _fuse(build) -> tuple[tvm.IRModule, tvm.IRModule]:
    x = relax.Var("x", relax.TensorType((8, 16), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(build(builder, x), "result")
        builder.emit_func_output(result)
    order = [transform.LegalizeOps(), transform.AnnotateTIROpPattern()]
    legal = tvm.transform.Sequential(order)(builder.get())
    return legal, transform.FuseOps()(legal)


def test_a_fused_kernel_has_the_names_of_all_it_computes():
    def build(builder, x):
        product = builder.emit(relax.op.matmul(x, relax.const(normal(1, 16, 16))), "product")
        return relax.op.nn.relu(product)

    (names,) = source_names(*_fuse(build)).values()
    assert names == ["product", "result"]


def test_equal_kernels_collect_the_names_of_every_use():
    def build(builder, x):
        value = x
        for n in range(3):
            weight = relax.const(normal(n, 16, 16))
            product = builder.emit(relax.op.matmul(value, weight), f"product{n}")
            value = builder.emit(relax.op.nn.relu(product), f"active{n}")
        return relax.op.nn.softmax(value)

    names = source_names(*_fuse(build))
    assert ["product0", "active0", "product1", "active1", "product2", "active2"] in names.values()
    assert ["result"] in names.values()


def test_a_kernel_of_several_results_has_their_names():
    def build(builder, x):
        parts = builder.emit(relax.op.split(x, 2, axis=1), "parts")
        left, right = (builder.emit(relax.TupleGetItem(parts, n), f"part{n}") for n in range(2))
        return relax.Tuple([left, right])

    assert ["parts", "part0", "part1"] in source_names(*_fuse(build)).values()


def test_calls_on_other_operands_are_told_apart():
    def build(builder, x):
        up = builder.emit(relax.op.nn.softmax(x), "up")
        down = builder.emit(relax.op.nn.softmax(up), "down")
        return relax.op.nn.softmax(down)

    (names,) = source_names(*_fuse(build)).values()
    assert names == ["up", "down", "result"]
