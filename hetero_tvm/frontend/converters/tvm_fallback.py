"""Operators that we leave to TVM's own importer.

TVM is pinned exactly, so its private table of converters may be relied upon. What they emit is
less canonical than ours (calls of generated functions, say), but right.
"""

from __future__ import annotations

import functools
from typing import Any

import onnx
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend.converters.context import Conversion

# Known to be wrong, or to need what a static graph does not have.
_REFUSED = frozenset(
    """
    Attention If Loop Scan Shape Size Optional OptionalHasElement OptionalGetElement
    SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceAt
    ConcatFromSequence SplitToSequence Unique NonZero NonMaxSuppression AllClassNMS Compress
    """.split()
)


# Operator -> attribute, and its only value that TVM's converter gets right.
_ONLY = {"RoiAlign": ("mode", "avg")}


@functools.cache
def _table() -> dict[str, Any]:
    return {
        name: rule
        for name, rule in onnx_frontend._get_convert_map().items()
        if name not in _REFUSED
    }


def covers(op_type: str) -> bool:
    """Does TVM have a converter for this operator of the standard domain?"""
    return op_type in _table()


def convert(c: Conversion) -> list[relax.Expr]:
    """The node's outputs by TVM's converter."""
    node = c.node.proto
    inputs = onnx_frontend.onnx_input()
    for index, name in enumerate(node.input):
        inputs.append(c.x(index) if name else None)
    attributes = _attributes(node)
    attributes["tvm_custom"] = {"name": node.name, "num_outputs": len(node.output)}
    _check_attributes(c)
    rule = _table()[node.op_type].get_converter(c.node.opset)
    try:
        result = rule(c.builder, inputs, attributes, [{}, {}])
    except BadInput:
        raise
    except Exception as error:  # TVM raises every kind here; the user needs the node's name
        raise c.unsupported(f"TVM's importer refuses it: {_last_line(error)}") from error
    result = c.builder.normalize(result)
    if isinstance(result, relax.Tuple):
        return list(result.fields)
    if isinstance(result.ty, relax.TupleType):
        whole = c.emit(result)
        return [relax.TupleGetItem(whole, index) for index in range(len(result.ty.fields))]
    return [result]


def _check_attributes(c: Conversion) -> None:
    name, right = _ONLY.get(c.node.op, ("", None))
    value = c.node.attr(name, right) if name else None
    if value != right:
        raise c.unsupported(f"{name}={value} is not covered")


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """As TVM's importer wants them: lists as tuples, strings as bytes."""
    result = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        result[attribute.name] = tuple(value) if isinstance(value, list) else value
    return result


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
