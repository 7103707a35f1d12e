"""What folding leaves: a static ONNX model, with what is known about its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from hetero_tvm.frontend.inlining import FreshNames, live_nodes
from hetero_tvm.frontend.node_types import Schemas, value_info
from hetero_tvm.frontend.node_view import ValueType
from hetero_tvm.frontend.tensor_spec import TensorSpec


@dataclass(frozen=True, kw_only=True)
class FoldedModel:
    """A static graph: no shape computation, no control flow, every operator importable."""

    proto: onnx.ModelProto  # valid ONNX, the same function as the original at these shapes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    types: dict[str, ValueType]
    constants: dict[str, np.ndarray]
    origin: dict[str, str]  # node name here -> node name in the original
    opset: int
    alias: Mapping[str, str]  # value of the original -> the value here that equals it
    # Nodes that no output needs. They still tell what an input means: the condition of an `If`
    # of which only one branch can run, say.
    dropped: tuple[onnx.NodeProto, ...] = ()
    dropped_constants: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Walked:
    """What the walk over a model found."""

    inputs: tuple[TensorSpec, ...]
    nodes: list[onnx.NodeProto]  # kept, in order
    types: dict[str, ValueType]
    constants: dict[str, np.ndarray]
    alias: Mapping[str, str]
    names: FreshNames
    schemas: Schemas


def assemble(model: onnx.ModelProto, walked: Walked, *, with_weights: bool = True) -> FoldedModel:
    """The nodes of `walked` that an output of `model` needs, as a model of their own.

    Without `with_weights` its `proto` has no initializers, only `constants` do.
    """
    every, rename = _with_output_names(model, walked)
    nodes = live_nodes(every, [output.name for output in model.graph.output])
    live = {node.name for node in nodes}
    dropped = tuple(node for node in every if node.name not in live)
    outputs = tuple(
        TensorSpec(name=o.name, dtype=walked.types[o.name].dtype, shape=walked.types[o.name].shape)
        for o in model.graph.output
    )
    constants = _read_constants(nodes, walked)
    return FoldedModel(
        proto=_proto(model, walked, nodes, outputs, constants if with_weights else {}),
        inputs=walked.inputs,
        outputs=outputs,
        types=walked.types,
        constants=constants,
        origin={node.name: walked.names.source(node.name) for node in nodes},
        opset=walked.schemas.opset,
        alias={name: rename.get(value, value) for name, value in walked.alias.items()},
        dropped=dropped,
        dropped_constants=_read_constants(dropped, walked),
    )


def _read_constants(nodes: Sequence[onnx.NodeProto], walked: Walked) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for node in nodes for name in node.input)
    return {name: walked.constants[name] for name in names if name in walked.constants}


def _proto(
    model: onnx.ModelProto,
    walked: Walked,
    nodes: list[onnx.NodeProto],
    outputs: tuple[TensorSpec, ...],
    constants: Mapping[str, np.ndarray],
) -> onnx.ModelProto:
    border = {spec.name for spec in outputs}
    inner = [name for node in nodes for name in node.output if name and name not in border]
    graph = onnx.helper.make_graph(
        nodes,
        model.graph.name or "main",
        [value_info(spec.name, walked.types[spec.name]) for spec in walked.inputs],
        [value_info(spec.name, walked.types[spec.name]) for spec in outputs],
        initializer=[onnx.numpy_helper.from_array(a, n) for n, a in constants.items()],
        value_info=[value_info(name, walked.types[name]) for name in inner],
    )
    return onnx.helper.make_model(
        graph, opset_imports=walked.schemas.opsets, ir_version=max(model.ir_version, 8)
    )


def _with_output_names(
    model: onnx.ModelProto, walked: Walked
) -> tuple[list[onnx.NodeProto], dict[str, str]]:
    """The nodes producing each graph output under its own name, and the renaming done for it."""
    produced = {name for node in walked.nodes for name in node.output if name}
    outputs = {output.name for output in model.graph.output}
    rename: dict[str, str] = {}
    extra = []
    for output in model.graph.output:
        value = walked.alias.get(output.name, output.name)
        if value == output.name and value in produced:
            continue
        if value in produced and value not in rename and value not in outputs:
            rename[value] = output.name
        else:
            source = rename.get(value, value)
            name = walked.names.take(f"{output.name}/output")
            extra.append(onnx.helper.make_node("Identity", [source], [output.name], name=name))
        walked.types[output.name] = walked.types[value]
    for node in walked.nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = rename.get(name, name)
    return walked.nodes + extra, rename
