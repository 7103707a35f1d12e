"""The placed graph for other people's viewers: DOT (Graphviz) and Model Explorer's JSON.

Both say of every operator where it runs, by colour and in words. DOT puts each NPU region into a
cluster; Model Explorer nests operators as the names of their ONNX nodes do. Names in a model are a
stranger's: in DOT they are quoted, and the identifiers are ours.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator, Mapping
from typing import Any

_COLOURS = {  # device -> fill, border; those of the report in the light
    "npu": ("#fdeadd", "#d9661f"),
    "gpu": ("#dfecfa", "#2472c8"),
    "gpu+npu": ("#ece4f9", "#7a4fc4"),
    "cpu": ("#e8ecf1", "#728095"),
}
_BORDER = ' [style=dashed, color="#7a4fc4"]'  # of an edge from one device to another
_INPUTS, _OUTPUTS = "inputs", "outputs"  # of the model; operators begin with "op"
_MOST_LABEL = 60  # characters of a node's name


def dot(data: Mapping[str, Any]) -> str:
    """One digraph in DOT, a cluster for each function where there are several.

    Args:
        data: as `report_data.report_data` gives it.
    """
    title = f"{data['model']['name']} on {data['target']['name']}"
    lines = [
        f"digraph {_quoted(title)} {{",
        f"  label={_quoted(title)}; labelloc=t; fontname=Helvetica;",
        '  node [shape=box, style="rounded,filled", fontname=Helvetica, fontsize=10];',
        "  edge [color=gray40, arrowsize=0.6];",
    ]
    several = len(data["functions"]) > 1
    for number, function in enumerate(data["functions"]):
        prefix = f"f{number}_"
        if several:
            lines += [f"  subgraph cluster_{prefix} {{", f"  label={_quoted(function['name'])};"]
        lines += _dot_function(function, prefix)
        if several:
            lines.append("  }")
    return "\n".join([*lines, "}", ""])


def _dot_function(function: Mapping[str, Any], prefix: str) -> Iterator[str]:
    ids = _ids(function)
    regions: dict[int | None, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for op in function["operators"]:
        regions[op["region"] if op["device"] == "npu" else None].append(op)
    for region, ops in regions.items():
        if region is not None:
            yield f"  subgraph cluster_{prefix}region{region} {{"
            yield f'    label="NPU region {region}"; style=dashed; color="{_COLOURS["npu"][1]}";'
        for op in ops:
            fill, border = _fill(op)
            label = "\n".join([_kind(op), _end(op["node"]), f"{_place(op)}, {_time(op)}"])
            yield (
                f"    {prefix}{ids[op['name']]} [label={_quoted(label)}, "
                f"tooltip={_quoted(op['reason'])}, device={_quoted(op['device'])}, "
                f'fillcolor="{fill}", color="{border}"];'
            )
        if region is not None:
            yield "  }"
    edges = list(_edges(function))
    for end in (_INPUTS, _OUTPUTS):
        if any(end in edge for edge in edges):
            yield f"  {prefix}{end} [label={end}, shape=oval, fillcolor=white];"
    devices = {op["name"]: op["device"] for op in function["operators"]}
    for source, target in edges:
        crosses = {source, target} <= devices.keys() and devices[source] != devices[target]
        way = f"{prefix}{ids.get(source, source)} -> {prefix}{ids.get(target, target)}"
        yield f"  {way}{_BORDER if crosses else ''};"


def model_explorer(data: Mapping[str, Any]) -> str:
    """A graph collection in the JSON that Google's Model Explorer opens, a graph a function.

    Args:
        data: as `report_data.report_data` gives it.
    """
    label = f"{data['model']['name']} on {data['target']['name']}"
    graphs = [_graph(function, data) for function in data["functions"]]
    return json.dumps({"label": label, "graphs": graphs}, indent=1)


def _graph(function: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    ids = _ids(function)
    incoming: dict[str, list[str]] = collections.defaultdict(list)
    for source, target in _edges(function):
        incoming[target].append(source)

    def edges(name: str) -> list[dict[str, str]]:
        return [
            {
                "sourceNodeId": ids.get(source, source),
                "sourceNodeOutputId": "0",
                "targetNodeInputId": str(number),
            }
            for number, source in enumerate(incoming[name])
        ]

    nodes: list[dict[str, Any]] = []
    if any(_INPUTS in sources for sources in incoming.values()):
        tensors = [
            {"id": str(i), "attrs": _pairs({"tensor_name": t["name"], "tensor_shape": _shape(t)})}
            for i, t in enumerate(data["inputs"])
        ]
        nodes.append({"id": _INPUTS, "label": _INPUTS, "namespace": "", "outputsMetadata": tensors})
    for op in function["operators"]:
        fill, border = _COLOURS[op["device"]]
        nodes.append(
            {
                "id": ids[op["name"]],
                "label": f"{_kind(op)} ({_place(op)})",
                "namespace": "/".join(part for part in op["node"].split("/")[:-1] if part),
                "attrs": _pairs(_facts(op)),
                "incomingEdges": edges(op["name"]),
                "outputsMetadata": [
                    {"id": str(i), "attrs": _pairs({"tensor_shape": _shape(tensor)})}
                    for i, tensor in enumerate(op["tensors"])
                ],
                "style": {"backgroundColor": fill, "borderColor": border},
            }
        )
    if incoming[_OUTPUTS]:
        nodes.append(
            {
                "id": _OUTPUTS,
                "label": _OUTPUTS,
                "namespace": "",
                "incomingEdges": edges(_OUTPUTS),
            }
        )
    about = {
        "target": data["target"]["name"],
        "predicted": f"{function['predicted_us']:.1f} µs (modelled)",
        "dtype": data["dtype"],
    }
    return {"id": function["name"], "nodes": nodes, "groupNodeAttributes": {"": about}}


def _facts(op: Mapping[str, Any]) -> dict[str, str]:
    """What the side panel shows of an operator."""
    facts = {"node": op["node"], "device": op["device"], "why": op["reason"]}
    if op["region"] is not None:
        facts["NPU region"] = str(op["region"])
    if op["split"] is not None:
        split = op["split"]
        facts["split"] = (
            f"{split['kind']}: the NPU has {split['at']} of {split['extent']} along axis "
            f"{split['axis']}, the GPU the rest"
        )
    if op["early"] is not None:
        early = op["early"]
        facts["order"] = f"{early['at']} of {early['extent']} along axis {early['axis']} first"
    facts |= {f"predicted on {d}": f"{us:.1f} µs" for d, us in op["part_us"].items()}
    facts |= {f"alone on {d}": f"{us:.1f} µs" for d, us in op["cost_us"].items()}
    facts |= {f"measured on {d}": f"{found['us']:.1f} µs" for d, found in op["measured"].items()}
    facts |= {f"{device} declines": why for device, why in op["declined"].items()}
    return facts | {"MACs": f"{op['macs']:,}", "bytes": f"{op['bytes']:,}"}


def _ids(function: Mapping[str, Any]) -> dict[str, str]:
    return {op["name"]: f"op{number}" for number, op in enumerate(function["operators"])}


def _edges(function: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Between operators by name, and from and to the model's inputs and outputs."""
    known = {op["name"] for op in function["operators"]}
    for op in function["operators"]:
        if op["from_model_input"]:
            yield _INPUTS, op["name"]
        yield from ((source, op["name"]) for source in op["inputs"] if source in known)
        if op["is_output"]:
            yield op["name"], _OUTPUTS


def _fill(op: Mapping[str, Any]) -> tuple[str, str]:
    """Fill and border; of a split operator the fill has the colours of both, by their shares."""
    fill, border = _COLOURS[op["device"]]
    if op["split"] is not None:
        share = op["split"]["npu_share"]
        fill = f"{_COLOURS['npu'][0]};{share:.3f}:{_COLOURS['gpu'][0]}"
    return fill, border


def _kind(op: Mapping[str, Any]) -> str:
    return str(op["op"]).removeprefix("relax.")


def _place(op: Mapping[str, Any]) -> str:
    if op["split"] is None:
        return str(op["device"]).upper()
    return f"NPU {op['split']['npu_share']:.0%} + GPU"


def _time(op: Mapping[str, Any]) -> str:
    return f"{max([0.0, *op['part_us'].values()]):.1f} µs"


def _end(name: str) -> str:
    return name if len(name) <= _MOST_LABEL else f"…{name[1 - _MOST_LABEL :]}"


def _shape(tensor: Mapping[str, Any]) -> str:
    return f"{tensor['dtype']}[{','.join(map(str, tensor['shape']))}]"


def _pairs(facts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in facts.items()]


def _quoted(text: str) -> str:
    """A DOT string; in it only backslashes, quotes and ends of lines mean something."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
