"""Tensors of a planned program are made once each; the same calls on the same addresses."""

from __future__ import annotations

import numpy as np
import on_gpu
import pytest
import tvm
from tvm import relax

from hetero_tvm import vm_lowering
from relay_passes.share_tensors import ShareTensors

X = (4, 16)


def _chain(length: int) -> tvm.IRModule:
    """Equal layers one behind the other, each of two kernels, and a kernel of two results."""

    def build(x):
        b = relax.BlockBuilder.current()
        first = x
        for _ in range(length):
            x = b.emit(relax.op.add(relax.op.nn.softmax(x), first))
        halves = b.emit(relax.op.split(x, 2, axis=1))
        swapped = [b.emit(relax.op.nn.softmax(halves[n])) for n in (1, 0)]
        return relax.op.concat(swapped, axis=1)

    return on_gpu.lower(on_gpu.module(build, (X, "float32")))


def _planned(mod: tvm.IRModule) -> tvm.IRModule:
    passes = [*vm_lowering.in_order(), *vm_lowering.with_memory()]
    return tvm.transform.Sequential(passes)(mod)


def _values(mod: tvm.IRModule) -> list[relax.Expr]:
    return [b.value for block in mod["main"].body.blocks for b in block.bindings]


def _count(mod: tvm.IRModule, what: str) -> int:
    return sum(
        isinstance(value, relax.Call) and getattr(value.op, "name", "") == what
        for value in _values(mod)
    )


def test_a_tensor_of_a_storage_is_made_once():
    few, many = (ShareTensors()(_planned(_chain(length))) for length in (4, 40))
    tensor = "relax.memory.alloc_tensor"
    assert _count(_planned(_chain(40)), tensor) > _count(many, tensor)
    assert _count(many, tensor) == _count(few, tensor)
    assert relax.analysis.check_well_formed(many)


def test_kernels_and_storages_stay():
    planned = _planned(_chain(5))
    shared = ShareTensors()(planned)
    storage = "relax.memory.alloc_storage"
    assert _count(shared, storage) == _count(planned, storage)

    def kernels(mod):
        calls = [value for value in _values(mod) if isinstance(value, relax.Call)]
        return [c.op.name_hint for c in calls if isinstance(c.op, tvm.ir.GlobalVar)]

    assert kernels(shared) == kernels(planned) and len(kernels(planned)) > 5


def test_tuples_are_read_field_by_field():
    shared = ShareTensors()(_planned(_chain(2)))
    assert not any(isinstance(v, relax.Tuple | relax.TupleGetItem) for v in _values(shared))


def test_a_tuple_that_is_given_out_stays():
    def build(x):
        b = relax.BlockBuilder.current()
        return relax.Tuple([b.emit(relax.op.nn.softmax(x)), b.emit(relax.op.exp(x))])

    lowered = on_gpu.lower(on_gpu.module(build, (X, "float32")))
    x = on_gpu.normal(1, *X)
    first, second = on_gpu.run_lowered(lowered, [x])
    assert np.allclose(first.sum(-1), 1, atol=1e-6)  # 16 float32 numbers that add up to one
    assert np.allclose(second, np.exp(x), rtol=1e-6)


@pytest.mark.parametrize("length", [1, 7])
def test_the_result_is_the_chain_s(length):
    x = on_gpu.normal(length, *X)
    (got,) = on_gpu.run_lowered(_chain(length), [x])

    def softmax(v):
        powers = np.exp(v.astype(np.float64) - v.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    want = x.astype(np.float64)
    for _ in range(length):
        want = softmax(want) + x
    want = np.concatenate([softmax(want[:, 8:]), softmax(want[:, :8])], axis=1)
    assert np.allclose(got, want, rtol=1e-5, atol=1e-6)  # float32, some tens of roundings


def test_a_second_time_changes_nothing():
    once = ShareTensors()(_planned(_chain(3)))
    tvm.ir.assert_structural_equal(ShareTensors()(once), once)
