"""Matrix products of an ONNX model with weights in a few bits, as `MatMulNBits`.

    MatMul(x, W)          ->  MatMulNBits(x, codes, scales[, zeros])
    MatMul(x, W.T), Gemm  ->  the same, and Add where a bias is

Weights are read, quantised and written one by one, so that memory holds one of them. Nodes that are
`MatMulNBits` already, and every tensor that no replaced node reads, are copied bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import helper

from hetero_tvm.block_quantization import Blocks, Settings, quantize
from hetero_tvm.errors import BadInput
from hetero_tvm.frontend.read_model import read_structure, read_tensor

_MICROSOFT = "com.microsoft"
_LOGITS = "logits"
# Between the head's product and the logits.
_AFTER_HEAD = ("Cast", "Identity", "Tanh", "Mul", "Div")
_FLOATS = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.FLOAT16: 2}
_INLINE_BYTES = 1 << 10  # smaller tensors stay in the model's file
_PAGE = 4096  # large tensors start at one, so that they can be mapped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One product with a constant weight."""

    name: str  # of its node, else of its weight
    node: int  # its place in the graph
    weight: str  # of the initialiser
    transposed: bool  # the initialiser is [N, K]
    depth: int  # K
    columns: int  # N
    is_head: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerReport:
    """What quantising did to one layer."""

    name: str
    depth: int
    columns: int
    settings: Settings | None  # None: kept as it is
    bytes_before: int
    bytes_after: int
    relative_error: float = 0.0  # root mean square, of the weight's own
    largest_error: float = 0.0


class Model:
    """An ONNX model, its weights left in their file."""

    def __init__(self, path: Path) -> None:
        """Raises BadInput where `path` is no ONNX model."""
        self.path = path
        self.proto = read_structure(path)
        self.weights = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        self.layers = tuple(self._layers())
        self.quantized = sum(node.op_type == "MatMulNBits" for node in self.proto.graph.node)

    def _layers(self) -> Iterator[Layer]:
        graph = self.proto.graph
        made = {name: node for node in graph.node for name in node.output}
        head = self._head(made)
        names: Counter[str] = Counter()
        for place, node in enumerate(graph.node):
            found = self._weight(node, made)
            if found is None:
                continue
            weight, transposed = found
            depth, columns = self.weights[weight].dims
            if transposed:
                depth, columns = columns, depth
            name = node.name or weight
            names[name] += 1
            if names[name] > 1:
                name = f"{name}#{names[name]}"
            yield Layer(
                name=name,
                node=place,
                weight=weight,
                transposed=transposed,
                depth=depth,
                columns=columns,
                is_head=head is node,
            )

    def _weight(
        self, node: onnx.NodeProto, made: Mapping[str, onnx.NodeProto]
    ) -> tuple[str, bool] | None:
        """The initialiser that is the right side of `node`, and if it is read transposed."""
        if node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm"):
            return None
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        transposed = bool(attributes.get("transB", 0))
        if attributes.get("transA", 0) or any(
            attributes.get(name, 1.0) != 1.0 for name in ("alpha", "beta")
        ):
            return None
        name = node.input[1]
        source = made.get(name)
        while source is not None and source.op_type in ("Transpose", "Identity"):
            if source.op_type == "Transpose":
                transposed = not transposed
            name = source.input[0]
            source = made.get(name)
        tensor = self.weights.get(name)
        if tensor is None or len(tensor.dims) != 2 or tensor.data_type not in _FLOATS:
            return None
        return name, transposed

    def _head(self, made: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
        """The node whose product is the logits."""
        node = made.get(_LOGITS)
        while node is not None and node.op_type in _AFTER_HEAD:
            node = made.get(node.input[0])
        return node

    def write(
        self,
        output: Path,
        settings: Mapping[str, Settings | None],
        started: Callable[[str], None] = lambda layer: None,
    ) -> tuple[LayerReport, ...]:
        """Write the quantised model to `output`, its weights beside it in `output`.data.

        Args:
            output: a file in a folder that exists.
            settings: layer -> how, None to keep it; all of `layers`.
            started: called before each layer.

        Raises:
            BadInput: a weight that is not finite, or cannot be read.
        """
        result = onnx.ModelProto()
        result.CopyFrom(self._skeleton())
        with output.with_name(output.name + ".data").open("wb") as file:
            reports = self._rewrite(result.graph, _Data(file), settings, started)
        if not any(entry.domain == _MICROSOFT for entry in result.opset_import):
            result.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
        output.write_bytes(result.SerializeToString())
        return reports

    def _skeleton(self) -> onnx.ModelProto:
        """The model without its initialisers."""
        skeleton = onnx.ModelProto()
        for field, value in self.proto.ListFields():
            if field.name != "graph":
                _assign(skeleton, field.name, value)
        for field, value in self.proto.graph.ListFields():
            if field.name != "initializer":
                _assign(skeleton.graph, field.name, value)
        return skeleton

    def _rewrite(
        self,
        graph: onnx.GraphProto,
        data: _Data,
        settings: Mapping[str, Settings | None],
        started: Callable[[str], None],
    ) -> tuple[LayerReport, ...]:
        reports = []
        replaced: dict[int, list[onnx.NodeProto]] = {}
        stored: dict[tuple[str, bool, Settings], tuple[list[str], Blocks]] = {}
        for layer in self.layers:
            chosen, tensor = settings[layer.name], self.weights[layer.weight]
            before = layer.depth * layer.columns * _FLOATS[tensor.data_type]
            if chosen is None:
                reports.append(
                    LayerReport(
                        name=layer.name,
                        depth=layer.depth,
                        columns=layer.columns,
                        settings=None,
                        bytes_before=before,
                        bytes_after=before,
                    )
                )
                continue
            started(layer.name)
            key = (layer.weight, layer.transposed, chosen)
            if key not in stored:
                stored[key] = self._quantized(layer, chosen, graph, data)
            names, blocks = stored[key]
            replaced[layer.node] = _nodes(graph.node[layer.node], layer, chosen, names)
            reports.append(
                LayerReport(
                    name=layer.name,
                    depth=layer.depth,
                    columns=layer.columns,
                    settings=chosen,
                    bytes_before=before,
                    bytes_after=blocks.nbytes,
                    relative_error=blocks.relative_error,
                    largest_error=blocks.largest_error,
                )
            )
        nodes = [
            new for place, node in enumerate(graph.node) for new in replaced.get(place, [node])
        ]
        nodes = _without_unread(nodes, [value.name for value in graph.output])
        kept = [copy.deepcopy(node) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)
        read = _read_names(graph)
        inputs = {value.name for value in graph.input}
        for name, tensor in self.weights.items():
            if name in read or name in inputs:
                graph.initializer.append(data.moved(self.path, tensor))
        return tuple(reports)

    def _quantized(
        self, layer: Layer, settings: Settings, graph: onnx.GraphProto, data: _Data
    ) -> tuple[list[str], Blocks]:
        """Write the parts of one weight; their names."""
        tensor = read_tensor(self.path, self.weights[layer.weight])
        weight = onnx.numpy_helper.to_array(tensor)
        try:
            blocks = quantize(weight if layer.transposed else weight.T, settings)
        except ValueError as error:
            raise BadInput(f"{self.path}: layer {layer.name}: {error}") from None
        names = []
        for suffix, array in (
            (f"Q{settings.bits}", blocks.packed),
            ("scales", blocks.scales),
            ("zeros", blocks.zeros),
        ):
            if array is not None:
                turned = "T" if layer.transposed else ""
                name = f"{layer.weight}.{turned}{settings.group}.{suffix}"
                names.append(name)
                flat = array if array.ndim == 3 else array.reshape(-1)
                graph.initializer.append(data.array(name, flat))
        return names, blocks


class _Data:
    """The file with the weights."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._name = Path(file.name).name

    def array(self, name: str, array: np.ndarray) -> onnx.TensorProto:
        """Write `array`; the tensor that refers to it."""
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = onnx.TensorProto(name=name, dims=array.shape, data_type=kind)
        return self._written(tensor, np.ascontiguousarray(array).tobytes())

    def moved(self, path: Path, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """`tensor` of the model at `path` with its bytes in this file, unless they are few."""
        whole = read_tensor(path, tensor)
        if len(whole.raw_data) < _INLINE_BYTES:  # or in a field of its type, as some writers do
            return whole
        moved = onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
        return self._written(moved, whole.raw_data)

    def _written(self, tensor: onnx.TensorProto, data: bytes) -> onnx.TensorProto:
        position = self._file.tell()
        padding = -position % (_PAGE if len(data) >= _PAGE else 64)
        self._file.write(bytes(padding) + data)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (
            ("location", self._name),
            ("offset", position + padding),
            ("length", len(data)),
        ):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def _nodes(
    node: onnx.NodeProto, layer: Layer, settings: Settings, names: list[str]
) -> list[onnx.NodeProto]:
    """What replaces `node`."""
    bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
    product = f"{node.output[0]}.product" if bias else node.output[0]
    quantized = helper.make_node(
        "MatMulNBits",
        [node.input[0], *names],
        [product],
        name=node.name or layer.name,
        domain=_MICROSOFT,
        K=layer.depth,
        N=layer.columns,
        bits=settings.bits,
        block_size=settings.group,
    )
    if not bias:
        return [quantized]
    added = helper.make_node(
        "Add", [product, bias], [node.output[0]], name=f"{node.name or layer.name}/bias"
    )
    return [quantized, added]


def _without_unread(nodes: list[onnx.NodeProto], outputs: list[str]) -> list[onnx.NodeProto]:
    """`nodes` but for those whose results nobody reads any more."""
    while True:
        read = {name for node in nodes for name in _reads(node)} | set(outputs)
        kept = [node for node in nodes if any(name in read for name in node.output)]
        if len(kept) == len(nodes):
            return nodes
        nodes = kept


def _read_names(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for value in graph.output}
    return names | {name for node in graph.node for name in _reads(node)}


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Every name that `node` and what it holds read."""
    yield from node.input
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            yield from _read_names(graph)


def _assign(message: object, field: str, value: object) -> None:
    """Copy one field of a protobuf message."""
    target = getattr(message, field)
    if hasattr(target, "CopyFrom"):
        target.CopyFrom(value)
    elif hasattr(target, "extend"):
        target.extend(value)
    else:
        setattr(message, field, value)
