"""Changes to an ONNX model that leave it a protobuf: a random bit seldom does."""

from __future__ import annotations

import random
from collections.abc import Callable

import onnx
from google.protobuf.message import DecodeError

_NUMBERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 4, 7, 16, 1000, 2**31 - 1, 2**31, 2**62)
_TYPES = tuple(onnx.TensorProto.DataType.values())
_OPERATORS = tuple(sorted({schema.name for schema in onnx.defs.get_all_schemas()}))


def mutate(
    data: bytes, size: int, rng: random.Random, other: Callable[[bytes, int], bytes]
) -> bytes:
    """`data` changed, at most `size` bytes; by `other` where it is no model, and now and then."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RuntimeError):
        return other(data, size)
    if rng.random() < 0.2:
        return other(data, size)
    try:
        for _ in range(rng.randint(1, 3)):
            rng.choice(_CHANGES)(model.graph, rng)
    except (TypeError, UnicodeDecodeError):  # a name that is no text
        return other(data, size)
    changed = model.SerializeToString()
    return changed if len(changed) <= size else other(data, size)


def _names(graph: onnx.GraphProto) -> list[str]:
    names = [value.name for value in graph.input] + [tensor.name for tensor in graph.initializer]
    return [*names, *(name for node in graph.node for name in node.output), ""]


def _operator(graph: onnx.GraphProto, rng: random.Random) -> None:
    if graph.node:
        rng.choice(graph.node).op_type = rng.choice(_OPERATORS)


def _operand(graph: onnx.GraphProto, rng: random.Random) -> None:
    if graph.node:
        node = rng.choice(graph.node)
        names = rng.choice((node.input, node.input, node.output))
        if names and rng.random() < 0.7:
            names[rng.randrange(len(names))] = rng.choice(_names(graph))
        else:
            names.append(rng.choice(_names(graph)))


def _node(graph: onnx.GraphProto, rng: random.Random) -> None:
    made = graph.node.add(op_type=rng.choice(_OPERATORS))
    made.input.extend(rng.choice(_names(graph)) for _ in range(rng.randint(0, 3)))
    made.output.append(f"t{rng.randrange(100)}")
    if graph.output and rng.random() < 0.5:
        rng.choice(graph.output).name = made.output[0]


def _attribute(graph: onnx.GraphProto, rng: random.Random) -> None:
    found = [attribute for node in graph.node for attribute in node.attribute]
    if not found:
        return
    attribute = rng.choice(found)
    if attribute.ints and rng.random() < 0.8:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_NUMBERS)
    elif rng.random() < 0.5:
        attribute.i = rng.choice(_NUMBERS)
    else:
        attribute.type = rng.choice(list(onnx.AttributeProto.AttributeType.values()))


def _new_attribute(graph: onnx.GraphProto, rng: random.Random) -> None:
    if not graph.node:
        return
    node = rng.choice(graph.node)
    try:
        known = list(onnx.defs.get_schema(node.op_type, node.domain).attributes.items())
    except onnx.defs.SchemaError:
        return
    if known:
        name, schema = rng.choice(known)
        number = rng.choice(_NUMBERS)
        values = {"INT": number, "INTS": [number] * rng.randint(0, 4), "FLOAT": float(number)}
        value = values.get(schema.type.name, "")
        if value != []:
            node.attribute.append(onnx.helper.make_attribute(name, value))


def _dimension(graph: onnx.GraphProto, rng: random.Random) -> None:
    values = [*graph.input, *graph.output]
    if not values:
        return
    dims = rng.choice(values).type.tensor_type.shape.dim
    if dims and rng.random() < 0.8:
        dims[rng.randrange(len(dims))].dim_value = rng.choice(_NUMBERS)
    else:
        dims.add(dim_value=rng.choice((0, 1, 2)))


def _type(graph: onnx.GraphProto, rng: random.Random) -> None:
    values = [*graph.input, *graph.output]
    if values:
        rng.choice(values).type.tensor_type.elem_type = rng.choice(_TYPES)


def _tensor(graph: onnx.GraphProto, rng: random.Random) -> None:
    if not graph.initializer:
        return
    tensor = rng.choice(graph.initializer)
    kind = rng.randrange(5)
    if kind == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_NUMBERS)
    elif kind == 1:
        tensor.data_type = rng.choice(_TYPES)
    elif kind == 2:
        tensor.raw_data = rng.randbytes(len(tensor.raw_data))
    elif kind == 3:
        tensor.dims.append(rng.choice((0, 1, 1, 2)))
    else:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "weights.bin"), ("offset", str(rng.choice(_NUMBERS)))):
            tensor.external_data.add(key=key, value=value)


_CHANGES = (_operator, _operand, _node, _attribute, _new_attribute, _dimension, _type, _tensor)
