"""Fold per-channel constants into the weights of the convolution or product before them.

    Conv(x, W, b) * s          ->  Conv(x, W * s, b * s)        also Div, BatchNormalization
    Conv(x, W, b) + t          ->  Conv(x, W, b + t)            also Sub
    MatMul(x, W) * s           ->  MatMul(x, W * s)             also Div
    (x + t) + u, (x * s) * u   ->  x + (t + u), x * (s * u)

Mobile networks carry a batch normalisation or a learnt scale and shift after every convolution;
folded, they cost nothing. The combined weights are computed in float64 and rounded once.

Requires: a folded model.
Ensures:  the surviving node keeps its name and produces the value of the last node taken in.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import onnx

from hetero_tvm.frontend.folded_model import FoldedModel
from hetero_tvm.frontend.node_view import STANDARD_DOMAINS, NodeView

_AFFINE_OPS = frozenset(("Add", "Sub", "Mul", "Div", "BatchNormalization"))


@dataclass(frozen=True)
class _Affine:
    """`y * scale + shift`, both in float64 and broadcastable to `y`."""

    scale: np.ndarray
    shift: np.ndarray


def fold_affine(model: FoldedModel) -> FoldedModel:
    """`model` with constants folded into weights."""
    return _AffineFolder(model).run()


class _AffineFolder:
    def __init__(self, model: FoldedModel) -> None:
        self._model = model
        self._constants = dict(model.constants)
        self._nodes: dict[str, onnx.NodeProto] = {}  # value -> the node that produces it
        self._reads: Counter[str] = Counter()
        self._taken: set[str] = set()  # names of nodes that were folded away

    def run(self) -> FoldedModel:
        graph = self._model.proto.graph
        nodes = []
        for node in graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            nodes.append(copy)
            self._reads.update(name for name in copy.input if name)
        self._reads.update(output.name for output in graph.output)
        for node in nodes:
            if not self._fold(node):
                self._nodes |= {name: node for name in node.output if name}
        kept = [node for node in nodes if node.name not in self._taken]
        return self._with_nodes(kept)

    def _with_nodes(self, nodes: list[onnx.NodeProto]) -> FoldedModel:
        used = {name for node in nodes for name in node.input}
        constants = {name: array for name, array in self._constants.items() if name in used}
        produced = {name for node in nodes for name in node.output}
        proto = onnx.ModelProto()
        proto.CopyFrom(self._model.proto)
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        values = [value for value in self._model.proto.graph.value_info if value.name in produced]
        del proto.graph.value_info[:]
        proto.graph.value_info.extend(values)
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(
            onnx.numpy_helper.from_array(array, name) for name, array in constants.items()
        )
        return replace(self._model, proto=proto, constants=constants)

    def _fold(self, node: onnx.NodeProto) -> bool:
        """Fold `node` into the producer of its input; was that possible?"""
        if node.op_type not in _AFFINE_OPS or node.domain not in STANDARD_DOMAINS:
            return False
        data = next((name for name in node.input if name not in self._constants), "")
        producer = self._nodes.get(data)
        if producer is None or self._reads[data] != 1 or producer.domain not in STANDARD_DOMAINS:
            return False
        affine = self._affine(node, data)
        if affine is None or not self._absorb(producer, node, affine):
            return False
        producer.output[0] = node.output[0]
        self._nodes[node.output[0]] = producer
        self._taken.add(node.name)
        return True

    def _view(self, node: onnx.NodeProto) -> NodeView:
        return NodeView(
            proto=node,
            opset=self._model.opset,
            types=self._model.types,
            constants=self._constants,
        )

    def _affine(self, node: onnx.NodeProto, data: str) -> _Affine | None:
        """What `node` does to `data`, when that is a known scale and shift in floating point."""
        view = self._view(node)
        kind = self._model.types[data]
        if np.dtype(kind.dtype).kind != "f" or view.out().shape != kind.shape:
            return None
        if node.op_type == "BatchNormalization":
            return self._batch_normalization(view)
        if len(node.input) != 2:
            return None
        first = node.input[0] == data
        known = self._constants.get(node.input[1 if first else 0])
        if known is None:
            return None
        value = np.asarray(known, np.float64)
        one, zero = np.ones((), np.float64), np.zeros((), np.float64)
        if node.op_type == "Add":
            return _Affine(one, value)
        if node.op_type == "Sub":
            return _Affine(one, -value) if first else _Affine(-one, value)
        if node.op_type == "Mul":
            return _Affine(value, zero)
        return _Affine(1 / value, zero) if first and np.all(value != 0) else None

    def _batch_normalization(self, view: NodeView) -> _Affine | None:
        known = [view.const(index) for index in range(1, 5)]
        if view.attr("training_mode", 0) or any(array is None for array in known):
            return None
        gain, bias, mean, variance = (np.asarray(array, np.float64) for array in known)
        shape = (gain.size, *[1] * (len(view.out().shape) - 2))
        scale = gain / np.sqrt(variance + view.attr("epsilon", 1e-5))
        return _Affine(scale.reshape(shape), (bias - mean * scale).reshape(shape))

    def _absorb(self, producer: onnx.NodeProto, node: onnx.NodeProto, affine: _Affine) -> bool:
        if producer.op_type in ("Conv", "ConvTranspose"):
            return self._into_convolution(producer, affine)
        if producer.op_type == "MatMul":
            return self._into_product(producer, affine)
        if producer.op_type == node.op_type and node.op_type in ("Add", "Mul"):
            return self._into_constant(producer, affine)
        return False

    def _replace_input(self, node: onnx.NodeProto, index: int, array: np.ndarray) -> None:
        name = f"{node.name}/folded_{index}"
        while len(node.input) <= index:
            node.input.append("")
        dtype = self._model.types[node.output[0]].dtype
        self._constants[name] = array.astype(dtype)
        self._model.types[name] = replace(
            self._model.types[node.output[0]], shape=tuple(array.shape)
        )
        node.input[index] = name

    def _into_convolution(self, conv: onnx.NodeProto, affine: _Affine) -> bool:
        view = self._view(conv)
        kind = view.out()
        weight = view.const(1)
        bias = view.const(2) if view.has(2) else np.zeros(())
        if weight is None or bias is None or np.dtype(kind.dtype).kind != "f":
            return False
        channels = kind.shape[1]
        scale = _along(affine.scale, kind.rank, 1, channels)
        shift = _along(affine.shift, kind.rank, 1, channels)
        if scale is None or shift is None:
            return False
        if np.any(scale != 1):
            if conv.op_type == "Conv":
                spread = scale.reshape(-1, *[1] * (weight.ndim - 1))
            elif view.attr("group", 1) == 1:
                spread = scale.reshape(1, -1, *[1] * (weight.ndim - 2))
            else:
                return False
            self._replace_input(conv, 1, weight.astype(np.float64) * spread)
        self._replace_input(conv, 2, bias.astype(np.float64) * scale + shift)
        return True

    def _into_product(self, product: onnx.NodeProto, affine: _Affine) -> bool:
        view = self._view(product)
        weight = view.const(1)
        if weight is None or weight.ndim < 2 or np.any(affine.shift != 0):
            return False
        kind = view.out()
        scale = _along(affine.scale, kind.rank, kind.rank - 1, kind.shape[-1])
        if scale is None:
            return False
        self._replace_input(product, 1, weight.astype(np.float64) * scale)
        return True

    def _into_constant(self, producer: onnx.NodeProto, affine: _Affine) -> bool:
        index = next((i for i, n in enumerate(producer.input) if n in self._constants), None)
        if index is None or len(producer.input) != 2:
            return False
        known = self._constants[producer.input[index]].astype(np.float64)
        other = affine.shift if producer.op_type == "Add" else affine.scale
        joined = known + other if producer.op_type == "Add" else known * other
        if joined.size > max(known.size, other.size):
            return False
        self._replace_input(producer, index, joined)
        return True


def _along(array: np.ndarray, rank: int, axis: int, size: int) -> np.ndarray | None:
    """`array` as a vector along `axis`, when it varies along no other axis of the value."""
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(extent != 1 for place, extent in enumerate(shape) if place != axis):
        return None
    return np.broadcast_to(array.reshape(-1), (size,))
