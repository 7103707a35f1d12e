"""Calls are plain data; parts are called as splitting calls them."""

import dataclasses
import json

import tvm
from split_programs import legal_cuts, plan_of
from tvm import relax

from hetero_tvm.typed_json import from_object
from relay_passes.calls import Call, Result, parts_of
from relay_passes.program import read_program
from relay_passes.split_tensor import split_tensor


def test_there_and_back_through_json():
    call = Call(
        symbol="npu_region_0",
        device="npu",
        operators=("a_npu", "b"),
        results=(Result(operator="b", shape=(1, 3)), Result(operator="a_npu", shape=())),
        macs=7,
        bytes=11,
    )
    assert from_object(Call, json.loads(json.dumps(dataclasses.asdict(call)))) == call


def test_parts_have_the_names_that_splitting_gives():
    x = relax.Var("x", relax.TensorType((8, 16), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(relax.op.nn.softmax(x), "soft")
        builder.emit_func_output(out)
    mod = relax.transform.Normalize()(builder.get())
    nodes = read_program(mod)
    assert isinstance(mod, tvm.IRModule)
    split = plan_of(nodes, [("gpu+npu", legal_cuts(nodes[0].call)[0])])
    whole = plan_of(nodes, [("gpu", None)])
    assert parts_of(whole.ops[0]) == ()
    assert split_tensor(mod, split).device == {p.name: p.device for p in parts_of(split.ops[0])}
    assert [(p.of, p.device) for p in parts_of(split.ops[0])] == [("npu", "npu"), ("gpu", "gpu")]
    assert [p.share for p in parts_of(split.ops[0])] == [1 / 8, 7 / 8]
    us = {"gpu": 5.0, "npu": 2.0}
    priced = dataclasses.replace(split.ops[0], split_us=us)
    assert [p.us for p in parts_of(priced)] == [2.0, 5.0]
    op = dataclasses.replace(whole.ops[0], early=split.ops[0].split.cut)
    assert [p.us for p in parts_of(op)] == [0.0, 0.0]
    assert [p.us for p in parts_of(dataclasses.replace(op, early_us=(3.0, 4.0)))] == [3.0, 4.0]
    early = dataclasses.replace(whole, ops=(op,))
    assert split_tensor(mod, early).device == {p.name: p.device for p in parts_of(op)}
    assert [(p.of, p.device) for p in parts_of(op)] == [("npu", "gpu"), ("gpu", "gpu")]
    assert [p.share for p in parts_of(op)] == [1 / 8, 7 / 8]
