"""Positions that a file counts from the length of its cache are the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from hetero_tvm.errors import UnsupportedModel
from hetero_tvm.frontend.llm_nodes import PAST, PLACES
from hetero_tvm.frontend.llm_positions import check_no_choice_by_length, set_positions
from tests.hetero_tvm.frontend.llm_on_cpu import CpuSteps
from tests.hetero_tvm.tiny_llm import Reference

FAMILIES = Path(__file__).parent / "families"
CACHE = "past_key_values.0.key"
NODE = helper.make_node
SHAPE = NODE("Shape", [CACHE], ["shape"])
ROWS = [SHAPE, NODE("Gather", ["shape", "two"], ["past"])]
END = NODE("Add", ["past", "three"], ["end"])


def replaced(nodes, *, given=False):
    """Is `y` of a step of three tokens made from the places of the tokens?"""
    numbers = {"zero": 0, "one": 1, "two": 2, "three": 3}
    weights = [numpy_helper.from_array(np.int64(n), name) for name, n in numbers.items()]
    weights += [numpy_helper.from_array(np.int64([n]), f"[{n}]") for n in (2, 3)]
    inputs = [helper.make_tensor_value_info(CACHE, TensorProto.FLOAT, [1, 2, "past", 16])]
    if given:
        inputs.append(helper.make_tensor_value_info("position_ids", TensorProto.INT64, [1, 3]))
    output = helper.make_tensor_value_info("y", TensorProto.INT64, None)
    graph = helper.make_graph(nodes, "step", inputs, [output], weights)
    set_positions(graph, [CACHE], rows=3, capacity=8)
    assert "position_ids" not in {value.name for value in graph.input}
    (node,) = [node for node in graph.node if "y" in node.output]
    return list(node.input) == [PLACES]


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([*ROWS, END, NODE("Range", ["past", "end", "one"], ["y"])], id="range"),
        pytest.param(
            [
                SHAPE,
                NODE("Slice", ["shape", "[2]", "[3]"], ["rows"]),
                NODE("Squeeze", ["rows"], ["past"]),
                END,
                NODE("Cast", ["end"], ["wide"], to=TensorProto.INT64),
                NODE("Range", ["past", "wide", "one"], ["y"]),
            ],
            id="slice_and_casts",
        ),
        pytest.param(
            [
                NODE("Shape", [CACHE], ["rows"], start=2, end=3),
                NODE("Range", ["zero", "three", "one"], ["steps"]),
                NODE("Add", ["steps", "rows"], ["y"]),
            ],
            id="added_to_a_range",
        ),
    ],
)
def test_what_counts_from_the_cache_is_replaced(nodes):
    assert replaced(nodes)


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([NODE("Range", ["zero", "three", "one"], ["y"])], id="counts_from_zero"),
        pytest.param([*ROWS, NODE("Range", ["zero", "past", "one"], ["y"])], id="all_before"),
        pytest.param([*ROWS, NODE("Range", ["past", "three", "one"], ["y"])], id="other_end"),
        pytest.param([*ROWS, END, NODE("Range", ["past", "end", "two"], ["y"])], id="other_step"),
        pytest.param([*ROWS, NODE("Add", ["past", "one"], ["y"])], id="a_length"),
        pytest.param(
            [
                SHAPE,
                NODE("Gather", ["shape", "three"], ["past"]),
                END,
                NODE("Range", ["past", "end", "one"], ["y"]),
            ],
            id="depth_of_a_head",
        ),
        pytest.param([NODE("Range", ["zero"], ["y"])], id="malformed"),
    ],
)
def test_what_counts_something_else_stays(nodes):
    assert not replaced(nodes)


def test_given_positions_are_enough():
    nodes = [*ROWS, END, NODE("Range", ["past", "end", "one"], ["y"])]
    used = NODE("Identity", ["position_ids"], ["x"])
    assert not replaced([*nodes, used], given=True)
    assert replaced(nodes, given=True)  # an input that nothing reads says nothing


def test_places_follow_from_past_and_end_with_the_cache():
    inputs = [helper.make_tensor_value_info(PAST, TensorProto.INT32, [1])]
    output = helper.make_tensor_value_info(PLACES, TensorProto.INT64, [3])
    graph = helper.make_graph([], "step", inputs, [output])
    set_positions(graph, [], rows=3, capacity=8)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    run = ReferenceEvaluator(model).run
    assert run(None, {PAST: np.int32([4])})[0].tolist() == [4, 5, 6]
    assert run(None, {PAST: np.int32([6])})[0].tolist() == [6, 7, 7]


@pytest.mark.parametrize(
    ("test", "most"), [("Greater", 16), ("LessOrEqual", 16), ("GreaterOrEqual", 15), ("Less", 15)]
)
def test_choice_by_length_is_refused_where_a_sequence_may_meet_it(test, most):
    """As onnxruntime-genai writes longrope; up to that length there is nothing to choose."""
    branch = helper.make_graph([], "angles", [], [])
    nodes = [
        NODE("Shape", ["attention_mask"], ["shape"]),
        NODE("Gather", ["shape", "one"], ["total"]),
        NODE(test, ["total", "sixteen"], ["long"]),
        NODE("If", ["long"], ["cos"], name="/rope", then_branch=branch, else_branch=branch),
    ]
    weights = [numpy_helper.from_array(np.int64(16), "sixteen")]
    graph = helper.make_graph(nodes, "step", [], [], weights)
    check_no_choice_by_length(graph, most)
    with pytest.raises(UnsupportedModel, match=rf"'/rope' .*beyond {most} .*--context {most}"):
        check_no_choice_by_length(graph, most + 1)
    nodes[2].input[0] = "tokens"  # chosen by something else
    check_no_choice_by_length(helper.make_graph(nodes, "step", [], [], weights), 64)


# What is in these two is in the others too, apart from constants.
NIGHTLY = ("llama", "mistral")


@pytest.mark.parametrize(
    "family",
    ["qwen2", "gemma2", "phi3", *(pytest.param(f, marks=pytest.mark.nightly) for f in NIGHTLY)],
)
def test_optimums_export_of_a_family_agrees_with_onnx_runtime(family):
    """`examples/llm_families.py` made the files. 21 tokens are more than the windows of 8 and the
    16 positions that the scaled rotary embeddings were made for."""
    folder = FAMILIES / family
    ours, reference = CpuSteps(folder, [1, 8], 32), Reference(folder / "model.onnx")
    tokens = [int(t) for t in np.random.default_rng(3).integers(3, 96, 24)]
    pairs = [(ours.step(8, tokens[:5]), reference.step(tokens[:5]))]  # filled up
    ours.step(8, tokens[5:13])
    pairs.append((ours.step(8, tokens[13:21]), reference.step(tokens[5:21])))
    pairs += [(ours.step(1, [token]), reference.step([token])) for token in tokens[21:]]
    for got, want in pairs:
        # float32 on both sides, sums of some dozens of terms in another order
        assert np.abs(got - want).max() <= 2e-5 * np.abs(want).max()
