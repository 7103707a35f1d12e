"""The placed graph as other people's programs read it."""

import json

import jsonschema
import networkx
import pydot
import pytest
import report_model

from hetero_tvm import cli, graph_export

# A collection of graphs as Model Explorer's `input_graph.ts` and its package's `graph_builder.py`
# declare it: what must be there, and of which type; nothing that they do not know.
_PAIRS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"key": {"type": "string"}, "value": {"type": "string"}},
        "required": ["key", "value"],
        "additionalProperties": False,
    },
}
_METADATA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"id": {"type": "string"}, "attrs": _PAIRS},
        "required": ["id", "attrs"],
        "additionalProperties": False,
    },
}
_NODE = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "label": {"type": "string"},
        "namespace": {"type": "string"},
        "attrs": _PAIRS,
        "incomingEdges": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    key: {"type": "string"}
                    for key in ("sourceNodeId", "sourceNodeOutputId", "targetNodeInputId")
                },
                "required": ["sourceNodeId", "sourceNodeOutputId", "targetNodeInputId"],
                "additionalProperties": False,
            },
        },
        "outputsMetadata": _METADATA,
        "style": {
            "type": "object",
            "properties": {
                key: {"pattern": "^#[0-9a-f]{6}$"} for key in ("backgroundColor", "borderColor")
            },
            "additionalProperties": False,
        },
    },
    "required": ["id", "label", "namespace"],
    "additionalProperties": False,
}
COLLECTION = {
    "type": "object",
    "properties": {
        "label": {"type": "string"},
        "graphs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "string"},
                    "nodes": {"type": "array", "minItems": 1, "items": _NODE},
                    "groupNodeAttributes": {
                        "additionalProperties": {"additionalProperties": {"type": "string"}}
                    },
                },
                "required": ["id", "nodes"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["label", "graphs"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def data():
    return report_model.data()[0]


def read_dot(text):
    """As networkx reads it, names without their quotes."""
    (graph,) = pydot.graph_from_dot_data(text)
    found = networkx.MultiDiGraph()
    pending = [graph]
    while pending:
        one = pending.pop()
        for node in one.get_nodes():
            if node.get_name() not in ("node", "edge", "graph"):
                found.add_node(node.get_name(), **node.get_attributes())
        for edge in one.get_edges():
            found.add_edge(edge.get_source(), edge.get_destination(), **edge.get_attributes())
        pending += one.get_subgraphs()
    return found


def test_dot_has_every_operator_and_edge(data):
    (function,) = data["functions"]
    graph = read_dot(graph_export.dot(data))
    names = {op["name"]: f"f0_op{i}" for i, op in enumerate(function["operators"])}
    assert set(graph) == {*names.values(), "f0_inputs", "f0_outputs"}
    for op in function["operators"]:
        attributes = graph.nodes[names[op["name"]]]
        assert attributes["device"] == f'"{op["device"]}"'
        sources = {names[name] for name in op["inputs"]}
        if op["from_model_input"]:
            sources.add("f0_inputs")
        assert set(graph.predecessors(names[op["name"]])) == sources
    assert networkx.is_directed_acyclic_graph(graph)
    assert {"gpu+npu"} <= {op["device"] for op in function["operators"]}


def test_names_of_the_model_stay_inside_their_quotes(data):
    """Quotes, backslashes and markup: `report_model` has such names."""
    text = graph_export.dot(data)
    assert report_model.HOSTILE.split("<")[1] in text
    changed = json.loads(json.dumps(data))
    changed["functions"][0]["operators"][0]["node"] = 'a"b\\'
    changed["model"]["name"] = '"; evil [label="x'
    graph = read_dot(graph_export.dot(changed))
    assert len(graph) == len(data["functions"][0]["operators"]) + 2
    assert 'a\\"b\\\\' in graph.nodes["f0_op0"]["label"]


def test_model_explorer_reads_what_is_written(data):
    document = json.loads(graph_export.model_explorer(data))
    jsonschema.validate(document, COLLECTION)
    (graph,) = document["graphs"]
    (function,) = data["functions"]
    ids = [node["id"] for node in graph["nodes"]]
    assert len(set(ids)) == len(ids) == len(function["operators"]) + 2
    edges = [
        (edge["sourceNodeId"], node["id"])
        for node in graph["nodes"]
        for edge in node.get("incomingEdges", ())
    ]
    assert {end for edge in edges for end in edge} <= set(ids)
    assert len(edges) == len(function["drawing"]["edges"])
    by_id = {node["id"]: node for node in graph["nodes"]}
    for i, op in enumerate(function["operators"]):
        node = by_id[f"op{i}"]
        facts = {pair["key"]: pair["value"] for pair in node["attrs"]}
        assert (facts["device"], facts["why"]) == (op["device"], op["reason"])
        assert node["outputsMetadata"][0]["attrs"][0]["key"] == "tensor_shape"
        border = {"npu": "#d9661f", "gpu": "#2472c8", "gpu+npu": "#7a4fc4", "cpu": "#728095"}
        assert node["style"]["borderColor"] == border[op["device"]]


def test_operators_are_nested_as_their_nodes_are_named(data):
    changed = json.loads(json.dumps(data))
    changed["functions"][0]["operators"][0]["node"] = "/encoder/layer.0/MatMul"
    (graph,) = json.loads(graph_export.model_explorer(changed))["graphs"]
    assert graph["nodes"][1]["namespace"] == "encoder/layer.0"


@pytest.mark.parametrize(("name", "ending"), [("dot", ".dot"), ("model-explorer", ".json")])
def test_the_verb_writes_them(name, ending, tmp_path, capsys):
    artefact = report_model.artefact()
    assert cli.main(["report", str(artefact), "--format", name, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["format"], said["report"]) == (name, str(artefact.with_suffix(ending)))
    other = tmp_path / "graph"
    assert cli.main(["report", str(artefact), "--format", name, "-o", str(other), "-q"]) == 0
    assert other.read_text() == artefact.with_suffix(ending).read_text()
