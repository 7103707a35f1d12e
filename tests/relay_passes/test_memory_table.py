"""Memory as it was planned: sizes, lives, and what shares a piece."""

import numpy as np
import tvm
from tvm import relax

from hetero_tvm import vm_lowering
from relay_passes.lower_gpu import lower_gpu
from relay_passes.memory_table import memory_table
from schedules.defaults import default_legalizations, default_rules
from schedules.tvm_target import tvm_target
from target_specs.loader import load_spec

GPU = load_spec("host").gpu


def _table(build):
    x = relax.Var("x", relax.TensorType((8, 64), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(build(builder, x), "out")
        builder.emit_func_output(out)
    lowered = lower_gpu(
        relax.transform.Normalize()(builder.get()),
        target=tvm_target(GPU),
        legalizations=default_legalizations(GPU),
        rules=default_rules(GPU),
    )
    steps = [*vm_lowering.in_order(), *vm_lowering.with_memory()]
    return memory_table(tvm.transform.Sequential(steps)(lowered), "main", [])


def _chain(builder, x, length):
    """Products that cannot fuse into each other."""
    for n in range(length):
        weight = np.random.default_rng(n).standard_normal((64, 64), np.float32)
        x = builder.emit(relax.op.matmul(x, relax.const(weight)), f"p{n}")
    return relax.op.nn.softmax(x)


def test_a_chain_needs_two_pieces_in_turns():
    table = _table(lambda builder, x: _chain(builder, x, 4))
    assert table.calls == 5
    assert table.storages == (8 * 64 * 4, 8 * 64 * 4)
    assert [(t.first, t.last) for t in table.tensors] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 4)]
    assert [t.storage for t in table.tensors] == [0, 1, 0, 1, None]
    assert all(t.nbytes == 8 * 64 * 4 for t in table.tensors)
    assert table.constants >= 4 * 64 * 64 * 4  # panels may be filled up


def test_tensors_that_share_a_piece_never_live_together():
    def build(builder, x):
        kept = builder.emit(relax.op.nn.softmax(x), "kept")
        return relax.op.add(_chain(builder, kept, 3), kept)

    table = _table(build)
    kept = next(tensor for tensor in table.tensors if tensor.first == 0)
    assert kept.last == table.calls - 1
    for one in table.tensors:
        for other in table.tensors:
            if one is not other and one.storage is not None and one.storage == other.storage:
                assert one.last < other.first or other.last < one.first


def test_a_view_keeps_alive_what_it_shows():
    def build(builder, x):
        made = builder.emit(relax.op.nn.softmax(x), "made")
        flat = builder.emit(relax.op.reshape(made, (512,)), "flat")
        one = builder.emit(_chain(builder, made, 2), "one")
        return relax.op.add(relax.op.reshape(one, (512,)), flat)

    table = _table(build)
    made = next(tensor for tensor in table.tensors if tensor.first == 0)
    assert made.last == table.calls - 1
