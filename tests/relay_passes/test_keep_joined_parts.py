"""A part of a join never becomes a view; everything else still may."""

from __future__ import annotations

import tvm
from tvm import relax

from relay_passes.keep_joined_parts import KeepJoinedParts
from relay_passes.split_tensor import JOIN


def program(joined: bool):
    """Two transposes of single rows, whose memory stays as it is."""
    x = relax.Var("x", relax.TensorType((1, 8), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            parts = [builder.emit(relax.op.permute_dims(x), f"part{i}") for i in range(2)]
            if joined:
                ty = relax.TensorType((16, 1), "float32")
                both = builder.emit(
                    relax.op.call_pure_packed(relax.ExternFunc(JOIN), *parts, ty_args=[ty])
                )
            else:
                both = builder.emit(relax.op.exp(relax.op.add(*parts)))
            result = builder.emit_output(relax.op.exp(both))
        builder.emit_func_output(result)
    return relax.transform.LegalizeOps()(builder.get())


def views(mod):
    mod = relax.transform.RewriteDataflowReshape()(mod)
    return [
        binding.var.name
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if binding.value.op == tvm.ir.Op.get("relax.reshape")
    ]


def test_parts_of_a_join_are_no_views():
    mod = program(joined=True)
    assert views(mod) == ["part0", "part1"]  # what would happen
    kept = KeepJoinedParts()(mod)
    relax.analysis.well_formed(kept)
    assert views(kept) == []
    names = [binding.var.name for binding in kept["main"].body.blocks[0].bindings]
    assert names == [binding.var.name for binding in mod["main"].body.blocks[0].bindings]


def test_what_is_not_joined_may_be_a_view():
    mod = program(joined=False)
    assert KeepJoinedParts()(mod).same_as(mod)
    assert views(mod) == ["part0", "part1"]
