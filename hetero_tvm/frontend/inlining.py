"""Copies of ONNX nodes under fresh names: subgraphs and function bodies moved into a flat graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from hetero_tvm.frontend.node_view import qualified_op


class FreshNames:
    """Hands out names that no value or node of the model has, and remembers their origin."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._last: dict[str, int] = {}  # wanted name -> the number it was last given
        self.origin: dict[str, str] = {}  # node name -> name of the model's own node
        self.operator: dict[str, str] = {}  # name of the model's own node -> its operator

    def take(self, wanted: str) -> str:
        """`wanted`, or `wanted_2` and so on when it is taken."""
        name, count = wanted, self._last.get(wanted, 1)
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._last[wanted] = count
        self._taken.add(name)
        return name

    def reserve(self, names: set[str]) -> None:
        """Never hand out `names`."""
        self._taken |= names

    def source(self, node: str) -> str:
        """The model's own node that `node` goes back to."""
        return self.origin.get(node, node)


def named_copies(nodes: Sequence[onnx.NodeProto], names: FreshNames) -> list[onnx.NodeProto]:
    """Copies of a model's own nodes; one without a name is called after its output."""
    used: set[str] = set()
    result = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        base = node.name or next((name for name in node.output if name), node.op_type)
        copy.name, count = base, 1
        while copy.name in used:
            count += 1
            copy.name = f"{base}_{count}"
        used.add(copy.name)
        names.origin[copy.name] = copy.name
        names.operator[copy.name] = qualified_op(copy)
        result.append(copy)
    names.reserve(used)
    return result


def renamed_copy(
    node: onnx.NodeProto, rename: dict[str, str], prefix: str, names: FreshNames
) -> onnx.NodeProto:
    """A copy of `node` with its values renamed, in nested graphs too; outputs join `rename`."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = names.take(node.name or f"{prefix}/{node.op_type}")
    for index, name in enumerate(copy.input):
        copy.input[index] = rename.get(name, name)
    for index, name in enumerate(copy.output):
        if name:
            if name not in rename:
                rename[name] = names.take(f"{prefix}/{name}")
            copy.output[index] = rename[name]
    for attribute in copy.attribute:
        if attribute.HasField("g"):
            _rename_free(attribute.g, rename)
    return copy


def _rename_free(graph: onnx.GraphProto, rename: Mapping[str, str]) -> None:
    """Rename what a nested graph reads from outside."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    visible = {name: new for name, new in rename.items() if name not in own}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = visible.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename_free(attribute.g, visible)
    for output in graph.output:
        output.name = visible.get(output.name, output.name)


def graph_copy(
    graph: onnx.GraphProto, arguments: Sequence[str], prefix: str, names: FreshNames
) -> tuple[list[onnx.NodeProto], dict[str, onnx.TensorProto], list[str]]:
    """The nodes of a subgraph called with `arguments`, its weights, and the results' names."""
    rename = dict(zip((value.name for value in graph.input), arguments, strict=True))
    weights = {}
    for tensor in graph.initializer:
        rename[tensor.name] = names.take(f"{prefix}/{tensor.name}")
        weights[rename[tensor.name]] = tensor
    nodes = []
    for inner in graph.node:
        for name in inner.output:
            if name:
                rename[name] = names.take(name)
        copy = renamed_copy(inner, rename, prefix, names)
        # Nodes of a branch keep their own names in reports: they are the model's.
        names.origin[copy.name] = inner.name or copy.name
        names.operator[inner.name or copy.name] = qualified_op(inner)
        nodes.append(copy)
    return nodes, weights, [rename.get(output.name, output.name) for output in graph.output]


def function_copy(
    body: onnx.FunctionProto, node: onnx.NodeProto, names: FreshNames
) -> list[onnx.NodeProto]:
    """The nodes of `body` called as `node` calls it."""
    given = list(node.input) + [""] * (len(body.input) - len(node.input))
    rename = dict(zip(body.input, given, strict=False))
    wanted = list(node.output) + [""] * (len(body.output) - len(node.output))
    for name, target in zip(body.output, wanted, strict=False):
        rename[name] = target or names.take(f"{node.name}/{name}")
    attributes = {attr.name: attr for attr in body.attribute_proto}
    attributes |= {attr.name: attr for attr in node.attribute}
    nodes = []
    for inner in body.node:
        copy = renamed_copy(inner, rename, node.name, names)
        for attr in list(copy.attribute):
            if not attr.ref_attr_name:
                continue
            copy.attribute.remove(attr)
            if attr.ref_attr_name in attributes:
                value = copy.attribute.add()
                value.CopyFrom(attributes[attr.ref_attr_name])
                value.name = attr.name
        nodes.append(copy)
    return nodes


def live_nodes(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that `outputs` depend on, in order; unread trailing outputs are cut off."""
    needed = set(outputs)
    live = []
    for node in reversed(nodes):
        if not needed.intersection(node.output):
            continue
        needed.update(name for name in node.input if name)
        while len(node.output) > 1 and node.output[-1] not in needed:
            del node.output[-1]
        live.append(node)
    return live[::-1]
