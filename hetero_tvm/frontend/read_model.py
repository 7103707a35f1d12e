"""Read an ONNX file that nobody vouches for.

Everything that is wrong with the file itself is found here, before any of it is believed: the
rest of the frontend may index tensors and follow names without asking again.

Ensures: every tensor's bytes match its dimensions; external data came from regular files inside
the model's folder; nesting, rank, counts and sizes lie under the limits below; every name that a
node reads is produced before it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import external_data_helper

from hetero_tvm.errors import ModelTooLarge, ModelUnreadable, WeightsMissing

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 2**31  # protobuf's own limit; larger models keep their weights outside
MAX_WEIGHT_BYTES = 64 * 2**30
MAX_NODES = 500_000
MAX_TENSORS = 500_000
MAX_RANK = 16
MAX_NESTING = 16
OLDEST_OPSET = 7  # earlier operators broadcast by attributes
_CHUNK_BYTES = 1 << 20
_LEAST_MAPPED_BYTES = 1 << 16  # a mapping costs a few pages and a system call
_NO_VERSION = 1 << 16  # of an operator set; the newest is far below


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawModel:
    """A model as its author wrote it, with all weights in memory or mapped."""

    path: Path
    proto: onnx.ModelProto
    sha256: str  # of the model file, then of each external file in order of its name
    # Initializers of `proto` whose values are here alone, mapped; see `read_model`.
    mapped: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def read_model(path: Path, *, mapped: bool = False, known: RawModel | None = None) -> RawModel:
    """Read `path` and its external data, or raise `BadInput` naming what is wrong with it.

    `mapped`: the graph's large external initializers are not read but mapped. `known`: the same
    model as it was read so before, whose maps and hash are taken.
    """
    proto = parse_model(path)
    _check_structure(path, proto)
    if known is not None:
        _load_external_data(path, proto, known.mapped)
        _check_tensors(path, proto, known.mapped)
        return dataclasses.replace(known, proto=proto)
    found, files = _map_external_data(path, proto) if mapped else ({}, set())
    files |= _load_external_data(path, proto, found)
    _check_tensors(path, proto, found)
    return RawModel(path=path, proto=proto, sha256=_hash([path, *sorted(files)]), mapped=found)


def parse_model(path: Path) -> onnx.ModelProto:
    """What `path` holds, without its external data and unchecked; `BadInput` if it is no model."""
    if not path.exists():
        raise ModelUnreadable(f"{path}: no such file")
    if not path.is_file():
        raise ModelUnreadable(f"{path}: not a file; give the .onnx file itself")
    size = path.stat().st_size
    if size == 0:
        raise ModelUnreadable(f"{path}: the file is empty")
    if size >= MAX_FILE_BYTES:
        raise ModelTooLarge(
            f"{path}: {size} bytes, and an ONNX file ends at {MAX_FILE_BYTES}; "
            "save it with its weights as external data"
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except (DecodeError, RuntimeError) as error:
        raise ModelUnreadable(f"{path}: not an ONNX file, or a truncated one ({error})") from error
    except OSError as error:
        raise ModelUnreadable(f"{path}: cannot be read ({error.strerror})") from error
    if not _is_text(proto):
        raise ModelUnreadable(
            f"{path}: not an ONNX file, or a damaged one (a name in it is no text)"
        )
    return proto


def _is_text(message: Message) -> bool:
    """Are all strings in `message` UTF-8? Others protobuf gives as bytes, where they are read."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            texts = value if field.is_repeated else (value,)
            if not all(isinstance(text, str) for text in texts):
                return False
        elif field.type == field.TYPE_MESSAGE:
            parts = value if field.is_repeated else (value,)
            if not all(map(_is_text, parts)):
                return False
    return True


def read_structure(path: Path) -> onnx.ModelProto:
    """The model at `path` with its external data left where it is; see `read_tensor`."""
    proto = parse_model(path)
    _check_structure(path, proto)
    return proto


def read_tensor(path: Path, tensor: onnx.TensorProto) -> onnx.TensorProto:
    """`tensor` of the model at `path` with its values, from an external file if it has one.

    Raises:
        BadInput: its bytes are not what its shape asks for, or cannot be read.
    """
    size = _tensor_bytes(path, tensor.name, tensor)
    if external_data_helper.uses_external_data(tensor):
        _, data = _read_external(path, tensor.name, tensor, size)
        return onnx.TensorProto(
            name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, raw_data=data
        )
    if tensor.HasField("raw_data") and len(tensor.raw_data) != size:
        raise ModelUnreadable(
            f"{path}: tensor {tensor.name!r} of shape {list(tensor.dims)} needs {size} bytes and "
            f"has {len(tensor.raw_data)}; the file is damaged"
        )
    return tensor


def _check_structure(path: Path, proto: onnx.ModelProto) -> None:
    if not proto.HasField("graph") or not proto.graph.output:
        raise ModelUnreadable(
            f"{path}: not an ONNX file, or a truncated one (no graph with outputs in it)"
        )
    for value in proto.graph.input:
        if value.type.HasField("tensor_type") and not value.type.tensor_type.elem_type:
            raise ModelUnreadable(
                f"{path}: input {value.name!r} is of no type; the file is damaged"
            )
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    if not all(0 <= version < _NO_VERSION for version in opsets.values()):
        raise ModelUnreadable(
            f"{path}: an operator set of a version that is none; the file is damaged"
        )
    opset = opsets.get("", opsets.get("ai.onnx"))
    if opset is None:
        raise ModelUnreadable(f"{path}: names no operator set; is it a plain ONNX model?")
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ModelUnreadable(
            f"{path}: operator set {opset} is outside {OLDEST_OPSET}..{newest}; "
            "convert the model with onnx.version_converter"
        )
    counts = {"nodes": 0, "tensors": 0}
    for graph, depth in _graphs(proto.graph):
        _check_depth(path, depth)
        counts["nodes"] += len(graph.node)
        counts["tensors"] += len(graph.initializer)
    for function in proto.functions:
        for node in function.node:
            counts["nodes"] += 1
            for attribute in node.attribute:
                for nested in _subgraphs(attribute):
                    for graph, depth in _graphs(nested, 1):
                        _check_depth(path, depth)
                        counts["nodes"] += len(graph.node)
                        counts["tensors"] += len(graph.initializer)
    if counts["nodes"] > MAX_NODES or counts["tensors"] > MAX_TENSORS:
        raise ModelTooLarge(
            f"{path}: {counts['nodes']} nodes and {counts['tensors']} tensors; "
            f"the limits are {MAX_NODES} and {MAX_TENSORS}"
        )
    _check_functions(path, proto)
    _check_names(path, proto.graph, ())
    for function in proto.functions:
        known = set(function.input)
        _check_nodes(path, function.node, (known,))
        _check_outputs(path, function.output, (known,))


def _check_depth(path: Path, depth: int) -> None:
    if depth > MAX_NESTING:
        raise ModelTooLarge(f"{path}: graphs nest more than {MAX_NESTING} deep")


def _check_functions(path: Path, proto: onnx.ModelProto) -> None:
    """Functions call no function that calls them, and written out they are not too many nodes."""
    bodies = {(f.domain, f.name, f.overload): f for f in proto.functions}
    sizes: dict[tuple[str, str, str], int] = {}  # nodes of a function, written out

    def count(nodes: Iterable[onnx.NodeProto], calling: frozenset[tuple[str, str, str]]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            total += 1
            if key in bodies:
                if key in calling or len(calling) > MAX_NESTING:
                    raise ModelUnreadable(
                        f"{path}: function {node.op_type!r} calls itself, or functions call one "
                        f"another more than {MAX_NESTING} deep"
                    )
                if key not in sizes:
                    sizes[key] = count(bodies[key].node, calling | {key})
                total += sizes[key]
            for attribute in node.attribute:
                total += sum(count(graph.node, calling) for graph in _subgraphs(attribute))
        return total

    written_out = count(proto.graph.node, frozenset())
    if written_out > MAX_NODES:
        raise ModelTooLarge(
            f"{path}: its functions make {written_out} nodes, the limit is {MAX_NODES}"
        )


def _is_type(number: int) -> bool:
    """Of a declared tensor; 0 says that nothing is declared."""
    return number in onnx.TensorProto.DataType.values()


Scopes = tuple[set[str], ...]  # the names that can be read, of a graph and of those around it


def _check_names(path: Path, graph: onnx.GraphProto, outer: Scopes) -> None:
    """Every name is produced once, and before it is read."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor_type = value.type.tensor_type
        if value.type.HasField("tensor_type") and not _is_type(tensor_type.elem_type):
            raise ModelUnreadable(
                f"{path}: {value.name!r} has the unknown type {tensor_type.elem_type}"
            )
        if len(tensor_type.shape.dim) > MAX_RANK:
            raise ModelTooLarge(f"{path}: {value.name!r} has more than {MAX_RANK} dimensions")
    known = {value.name for value in graph.input}
    known |= {tensor.name for tensor in graph.initializer}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    scopes = (known, *outer)
    _check_nodes(path, graph.node, scopes)
    _check_outputs(path, [value.name for value in graph.output], scopes)


def _check_nodes(path: Path, nodes: Iterable[onnx.NodeProto], scopes: Scopes) -> None:
    known = scopes[0]
    for node in nodes:
        for name in node.input:
            if name and not any(name in scope for scope in scopes):
                raise ModelUnreadable(
                    f"{path}: node {node.name or node.op_type!r} reads {name!r}, which nothing "
                    "before it produces; the file is damaged"
                )
        for attribute in node.attribute:
            for subgraph in _subgraphs(attribute):
                _check_names(path, subgraph, scopes)
        for name in node.output:
            if name and name in known:
                raise ModelUnreadable(
                    f"{path}: node {node.name or node.op_type!r} produces {name!r}, which is there "
                    "already; the file is damaged"
                )
            known.add(name)


def _check_outputs(path: Path, names: Iterable[str], scopes: Scopes) -> None:
    for name in names:
        if not any(name in scope for scope in scopes):
            raise ModelUnreadable(
                f"{path}: output {name!r} is produced by no node; the file is damaged or truncated"
            )


def _subgraphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)


def _graphs(graph: onnx.GraphProto, depth: int = 0) -> Iterator[tuple[onnx.GraphProto, int]]:
    yield graph, depth
    if depth > MAX_NESTING:
        return
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in _subgraphs(attribute):
                yield from _graphs(subgraph, depth + 1)


def _tensors(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every tensor of the model with the name to use in a message."""
    for graph, _ in _graphs(proto.graph):
        yield from _graph_tensors(graph)
    for function in proto.functions:
        yield from _attribute_tensors(function.node)
        for node in function.node:
            for attribute in node.attribute:
                for nested in _subgraphs(attribute):
                    for graph, _ in _graphs(nested):
                        yield from _graph_tensors(graph)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for sparse in graph.sparse_initializer:
        yield from _sparse_tensors(sparse.values.name, sparse)
    yield from _attribute_tensors(graph.node)


def _attribute_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, onnx.TensorProto]]:
    for node in nodes:
        for attribute in node.attribute:
            where = f"{node.name or node.op_type}.{attribute.name}"
            if attribute.HasField("t"):
                yield where, attribute.t
            for tensor in attribute.tensors:
                yield where, tensor
            if attribute.HasField("sparse_tensor"):
                yield from _sparse_tensors(where, attribute.sparse_tensor)
            for sparse in attribute.sparse_tensors:
                yield from _sparse_tensors(where, sparse)


def _sparse_tensors(
    name: str, sparse: onnx.SparseTensorProto
) -> Iterator[tuple[str, onnx.TensorProto]]:
    yield name, sparse.values
    yield name, sparse.indices


def _tensor_bytes(path: Path, name: str, tensor: onnx.TensorProto) -> int:
    """Bytes that the dimensions of `tensor` ask for."""
    if len(tensor.dims) > MAX_RANK or any(dim < 0 for dim in tensor.dims):
        raise ModelUnreadable(
            f"{path}: tensor {name!r} has the impossible shape {list(tensor.dims)}"
        )
    count = math.prod(tensor.dims)
    kinds = onnx.TensorProto
    if tensor.data_type in (kinds.INT4, kinds.UINT4, kinds.FLOAT4E2M1):
        size = (count + 1) // 2
    elif tensor.data_type in (getattr(kinds, "INT2", -1), getattr(kinds, "UINT2", -1)):
        size = (count + 3) // 4
    else:
        try:
            size = count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        except (KeyError, ValueError, TypeError) as error:
            raise ModelUnreadable(
                f"{path}: tensor {name!r} has the unknown type {tensor.data_type}"
            ) from error
    if size > MAX_WEIGHT_BYTES:
        raise ModelUnreadable(f"{path}: tensor {name!r} asks for {size} bytes")
    return size


def _map_external_data(
    path: Path, proto: onnx.ModelProto
) -> tuple[dict[str, np.ndarray], set[Path]]:
    """The graph's large external initializers by name, and the files that they are in."""
    found: dict[str, np.ndarray] = {}
    files: set[Path] = set()
    for tensor in proto.graph.initializer:
        if not external_data_helper.uses_external_data(tensor):
            continue
        size = _tensor_bytes(path, tensor.name, tensor)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        whole = math.prod(tensor.dims) * dtype.itemsize == size  # no packed 4-bit numbers
        if size < _LEAST_MAPPED_BYTES or not whole or dtype.kind not in "fiub":
            continue
        file, offset = _external_place(path, tensor.name, tensor, size)
        # Private and writable, so that a constant can lie there; nobody writes to it.
        found[tensor.name] = np.memmap(file, dtype, "c", offset, tuple(tensor.dims))
        files.add(file)
    return found, files


def _load_external_data(
    path: Path, proto: onnx.ModelProto, mapped: Mapping[str, np.ndarray]
) -> set[Path]:
    """Read all external tensors into the model that are not `mapped`; returns their files."""
    files: set[Path] = set()
    total_bytes = 0
    for name, tensor in _tensors(proto):
        if name in mapped or not external_data_helper.uses_external_data(tensor):
            continue
        size = _tensor_bytes(path, name, tensor)
        total_bytes += size
        if total_bytes > MAX_WEIGHT_BYTES:
            raise ModelTooLarge(f"{path}: external data of more than {MAX_WEIGHT_BYTES} bytes")
        file, tensor.raw_data = _read_external(path, name, tensor, size)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
        files.add(file)
    return files


def _read_external(
    path: Path, name: str, tensor: onnx.TensorProto, size: int
) -> tuple[Path, bytes]:
    file, offset = _external_place(path, name, tensor, size)
    with file.open("rb") as stream:
        stream.seek(offset)
        return file, stream.read(size)


def _external_place(path: Path, name: str, tensor: onnx.TensorProto, size: int) -> tuple[Path, int]:
    """The file that holds `size` bytes of `tensor`, and where in it."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _contained(path, name, entries.get("location", ""))
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or size)
    except ValueError as error:
        raise WeightsMissing(f"{path}: tensor {name!r} has a malformed external offset") from error
    file_bytes = file.stat().st_size
    if length != size or offset < 0 or offset + length > file_bytes:
        raise WeightsMissing(
            f"{path}: tensor {name!r} wants {size} bytes and names bytes {offset} to "
            f"{offset + length} of {file.name}, which has {file_bytes}; copy the file again"
        )
    return file, offset


def _contained(path: Path, name: str, location: str) -> Path:
    """The external file of tensor `name`: regular, unlinked, inside the model's folder."""

    def refuse(what: str) -> WeightsMissing:
        return WeightsMissing(
            f"{path}: external data of tensor {name!r}: {location!r} {what}; "
            "put a real copy of the file inside the model's folder"
        )

    if not location or "\x00" in location:
        raise WeightsMissing(f"{path}: external data of tensor {name!r} names no file")
    parts = PurePosixPath(location).parts
    if PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor:
        raise refuse("is an absolute path")
    if ".." in parts or ".." in PureWindowsPath(location).parts:
        raise refuse("leaves the model's folder")
    folder = path.parent.resolve()
    file = folder
    for part in parts:
        file = file / part
        if file.is_symlink():
            raise refuse("is or passes through a symbolic link")
    if not file.exists():
        raise refuse("does not exist")
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise refuse("is not a regular file")
    if status.st_nlink > 1:
        raise refuse("is a hard link")
    return file


def _check_tensors(path: Path, proto: onnx.ModelProto, mapped: Mapping[str, np.ndarray]) -> None:
    for name, tensor in _tensors(proto):
        if name in mapped and external_data_helper.uses_external_data(tensor):
            continue
        size = _tensor_bytes(path, name, tensor)
        if tensor.HasField("segment"):
            raise ModelUnreadable(f"{path}: tensor {name!r} is a part of one, which nothing reads")
        if tensor.HasField("raw_data") and tensor.data_type != onnx.TensorProto.STRING:
            if len(tensor.raw_data) != size:
                raise ModelUnreadable(
                    f"{path}: tensor {name!r} of shape {list(tensor.dims)} needs {size} bytes and "
                    f"has {len(tensor.raw_data)}; the file is damaged"
                )
            continue
        try:  # values in a field of their type: few, since they take more room
            onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ModelUnreadable(f"{path}: tensor {name!r} is damaged: {error}") from None


def _hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
