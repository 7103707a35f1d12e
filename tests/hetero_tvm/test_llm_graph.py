"""An architecture as the planner's problem: sizes, cuts, what the NPU does at odd lengths."""

import pytest

from hetero_tvm import llm_graph
from hetero_tvm.llm_graph import POLICIES, build, npu_lengths, online_compile_us
from hetero_tvm.simulation import waiting_of
from schedules.cost_model import CostModel
from target_specs.llm import load_llm
from target_specs.loader import load_spec

COSTS = CostModel(load_spec("snapdragon-8-gen-3"))
WAITING = waiting_of(COSTS, fast=True, element_bytes=2)
LLAMA = load_llm("llama-3-8b")
LAYER = 9  # operators


def graph(rows, past=0, policy="plan", llm=LLAMA):
    return build(llm, COSTS, WAITING, rows=rows, past=past, policy=policy)


def alone(found, index, device):
    return next(ways[device] for ways in found.loads[index] if ways.keys() == {device})


@pytest.mark.parametrize(
    ("rows", "padding", "pipe"),
    [
        (1, (1,), (1,)),
        (20, (32,), (32,)),
        (256, (256,), (256,)),
        (300, (512,), (256, 32, 32)),
        (525, (1024,), (512, 32)),
        (1500, (1024, 512), (1024, 256, 128, 64, 32)),
        (2048, (1024, 1024), (1024, 1024)),
    ],
)
def test_lengths(rows, padding, pipe):
    assert npu_lengths(rows, "padding") == [padding]
    assert npu_lengths(rows, "pipe") == [pipe]
    assert {padding, pipe} <= set(npu_lengths(rows, "plan"))
    assert npu_lengths(rows, "online") == [(rows,)]
    for way in npu_lengths(rows, "plan"):
        assert sum(way) >= rows
        assert sum(way) == sum(sorted(way, reverse=True))


def test_compiling_at_run_time():
    assert online_compile_us(300) == pytest.approx(38_000 + 300 * 470)


def test_one_operator_after_the_other():
    found = graph(256)
    assert len(found.problem.ops) == 1 + LLAMA.layers * LAYER + 2
    assert list(found.names[1:10]) == [
        f"layer 0 {name}"
        for name in "norm 1,qkv,rope,attention,output,norm 2,gate/up,swiglu,down".split(",")
    ]
    ops = dict(zip(found.names, found.problem.ops, strict=True))
    index = found.names.index
    # The residual stream passes by what was added to it.
    assert ops["layer 1 output"].inputs == (index("layer 1 attention"), index("layer 0 down"))
    assert ops["layer 1 down"].inputs == (index("layer 1 swiglu"), index("layer 1 output"))
    assert ops["layer 0 qkv"].nbytes == 256 * (4096 + 2 * 1024) * 2
    assert ops["lm_head"].nbytes == 128_256 * 2  # of the last row alone
    assert [name for name, op in ops.items() if op.is_output] == ["lm_head"]


def test_decoding_reads_every_weight_once():
    found = graph(1, past=256)
    weights = LLAMA.parameters // 2  # four bits each
    read = sum(alone(found, i, "npu").nbytes for i in range(len(found.names)))
    cache = LLAMA.layers * 2 * 257 * LLAMA.key_columns * 2
    assert read == pytest.approx(weights + cache)


@pytest.mark.parametrize("rows", [1, 300])
def test_parts_of_a_split_are_the_whole(rows):
    found = graph(rows, past=64, policy="padding")
    for ways in found.loads[: 2 * LAYER]:
        whole = {device: load for way in ways if len(way) == 1 for device, load in way.items()}
        for way in ways:
            if len(way) == 2:
                shares = sum(way[d].us / whole[d].us for d in way)
                # Launches and narrow work cost a part more than its share, never less.
                assert shares >= 1 - 1e-9


def test_cuts_of_a_chain_fit_one_another():
    found = graph(300)
    cuts = {
        name.removeprefix("layer 0 "): {c.makes for c in op.choices if c.makes}
        for name, op in zip(found.names, found.problem.ops, strict=True)
        if name.startswith("layer 0")
    }
    columns = {name: {cut for cut in found if cut.axis == 1} for name, found in cuts.items()}
    assert columns["qkv"] == columns["rope"] == columns["attention"]
    assert columns["gate/up"] == columns["swiglu"]
    assert not columns["norm 1"]
    rows = {name: {cut for cut in found if cut.axis == 0} for name, found in cuts.items()}
    assert len({frozenset(found) for found in rows.values()}) == 1
    for cut in rows["qkv"]:  # the NPU's share has a graph, or two
        assert cut.extent == 300
        assert any(
            cut.at in (a, a + b) for a in llm_graph.NPU_LENGTHS for b in llm_graph.NPU_LENGTHS
        )


def test_rows_are_cut_only_when_the_planner_may():
    for policy in POLICIES:
        found = graph(300, policy=policy)
        axes = {c.makes.axis for op in found.problem.ops for c in op.choices if c.makes}
        assert axes == ({0, 1} if policy == "plan" else {1})


def test_kinds_of_split():
    kinds = {rows: {c.kind for op in graph(rows).problem.ops[1:10] for c in op.choices}
             for rows in (1, 256, 300)}  # fmt: skip
    assert kinds[1] == {None, "weight"}
    assert kinds[256] == {None, "weight", "activation"}
    assert kinds[300] >= {None, "hybrid", "activation"}


def test_padding_costs_as_much_as_the_length_padded_to():
    at = {rows: graph(rows, policy="padding") for rows in (300, 512)}
    index = at[300].names.index("layer 0 gate/up")
    assert alone(at[300], index, "npu").us == pytest.approx(alone(at[512], index, "npu").us)
    assert alone(at[300], index, "gpu").us < alone(at[512], index, "gpu").us


def test_only_keeps_what_was_asked_for():
    found = graph(256).only(["gpu"])
    assert all(len(op.choices) == 1 for op in found.problem.ops)
    assert all(way.keys() == {"gpu"} for ways in found.loads for way in ways)
