"""Copies under fresh names."""

from onnx import FunctionProto, helper

from hetero_tvm.frontend.inlining import (
    FreshNames,
    function_copy,
    graph_copy,
    live_nodes,
    named_copies,
    renamed_copy,
)
from tests.hetero_tvm.frontend.onnx_cases import FLOAT, node


def _body(nodes, outputs):
    return helper.make_graph(
        nodes, "b", [], [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
    )


def test_names_are_handed_out_once():
    names = FreshNames({"a"})
    assert [names.take("a"), names.take("a"), names.take("b")] == ["a_2", "a_3", "b"]


def test_unnamed_nodes_are_called_after_their_output():
    nodes = [
        node("Relu", "x", "y"),
        node("Relu", "x", "z", name="r"),
        node("Relu", "x", "w", name="r"),
    ]
    assert [copy.name for copy in named_copies(nodes, FreshNames(set()))] == ["y", "r", "r_2"]


def test_nested_graphs_follow_the_renaming_but_keep_what_is_their_own():
    inner = _body([node("Add", "x t", "t2"), node("Neg", "own", "own2")], ["t2"])
    inner.node.insert(0, node("Relu", "x", "own"))
    outer = node("If", "c", "y", then_branch=inner, else_branch=inner)
    copy = renamed_copy(outer, {"x": "X", "own": "wrong"}, "p", FreshNames(set()))
    graph = copy.attribute[0].g
    assert [list(n.input) for n in graph.node] == [["X"], ["X", "t"], ["own"]]
    assert outer.attribute[0].g.node[0].input[0] == "x"  # the original is untouched


def test_a_subgraph_is_called_with_arguments():
    graph = _body([node("Add", "a w", "s"), node("Relu", "s", "r")], ["r"])
    graph.input.append(helper.make_tensor_value_info("a", FLOAT, None))
    graph.initializer.append(helper.make_tensor("w", FLOAT, [1], [1.0]))
    nodes, weights, results = graph_copy(graph, ["x"], "call", FreshNames({"s", "r"}))
    assert [list(n.input) for n in nodes] == [["x", "call/w"], ["s_2"]]
    assert (list(weights), results) == (["call/w"], ["r_2"])


def test_a_function_body_takes_the_nodes_attributes():
    inner = node("LeakyRelu", "X", "Y")
    reference = inner.attribute.add()
    reference.name, reference.ref_attr_name, reference.type = "alpha", "slope", 1
    body = FunctionProto(name="F", input=["X"], output=["Y"], node=[inner])
    call = node("F", "x", "y", name="f", slope=0.25)
    (copy,) = function_copy(body, call, FreshNames(set()))
    assert (list(copy.input), list(copy.output)) == (["x"], ["y"])
    assert (copy.attribute[0].name, copy.attribute[0].f) == ("alpha", 0.25)
    (without,) = function_copy(body, node("F", "x", "y", name="f"), FreshNames(set()))
    assert not without.attribute


def test_live_nodes():
    nodes = [node("Split", "x", "a b"), node("Relu", "x", "dead"), node("Neg", "a", "y")]
    live = live_nodes(nodes, ["y"])
    assert [list(n.output) for n in live] == [["a"], ["y"]]
