"""Static types of ONNX values, and how to infer them for one node."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from hetero_tvm.errors import ModelTooLarge, OpenShapeError, ShapeMismatchError
from hetero_tvm.frontend.node_view import STANDARD_DOMAINS, ValueType, qualified_op
from hetero_tvm.frontend.own_nodes import OWN_DOMAIN, own_types

_MAX_SHAPE_DATA_BYTES = 1 << 16  # constants up to this size are shown to shape inference
MAX_VALUE_BYTES = 16 << 30  # of one tensor; more than a device for these models has
_DATA_DEPENDENT_OPS = frozenset("NonZero Unique Compress NonMaxSuppression StringSplit".split())


class Schemas:
    """ONNX's own knowledge of operators, at the versions that a model imports."""

    def __init__(self, opsets: Sequence[onnx.OperatorSetIdProto]) -> None:
        self.opsets = list(opsets)
        versions = {entry.domain: entry.version for entry in self.opsets}
        self.opset = versions.get("", versions.get("ai.onnx", 1))
        self._versions = {**versions, "": self.opset, "ai.onnx": self.opset}

    def find(self, node: onnx.NodeProto) -> Any:
        """The operator's `OpSchema`, `None` for an operator that ONNX does not define."""
        domain = "" if node.domain in STANDARD_DOMAINS else node.domain
        version = self._versions.get(node.domain, 1)
        if not onnx.defs.has(node.op_type, version, domain):
            return None
        return onnx.defs.get_schema(node.op_type, version, domain)

    def infer(
        self,
        node: onnx.NodeProto,
        types: Mapping[str, ValueType],
        constants: Mapping[str, np.ndarray],
    ) -> dict[str, ValueType]:
        """Static types of the outputs; raises one of this module's errors without them."""
        if node.domain == OWN_DOMAIN:
            return own_types(node, types)
        schema = self.find(node)
        if schema is None:
            raise OpenShapeError("its shape is not known")
        protos = {name: type_proto(types[name]) for name in node.input if name}
        data = {
            name: onnx.numpy_helper.from_array(constants[name], name)
            for name in node.input
            if name in constants and constants[name].nbytes <= _MAX_SHAPE_DATA_BYTES
        }
        try:
            inferred = onnx.shape_inference.infer_node_outputs(
                schema, node, protos, data, opset_imports=self.opsets
            )
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
            shapes = [list(types[name].shape) for name in node.input if name]
            raise ShapeMismatchError(
                f"node {node.name!r} ({qualified_op(node)}) does not fit its inputs {shapes}: "
                f"{first_line(error)}"
            ) from error
        outputs = {}
        for name in node.output:
            if not name:
                continue
            kind = static_type(inferred.get(name))
            if kind is None:
                raise OpenShapeError(_why_open(node))
            if math.prod(kind.shape) * np.dtype(kind.dtype).itemsize > MAX_VALUE_BYTES:
                raise ModelTooLarge(
                    f"node {node.name!r} ({qualified_op(node)}) makes {kind.dtype} "
                    f"{list(kind.shape)}, more than {MAX_VALUE_BYTES} bytes"
                )
            outputs[name] = kind
        _check_reshape(node, types, outputs)
        return outputs

    def definition(
        self, node: onnx.NodeProto, types: Mapping[str, ValueType]
    ) -> onnx.FunctionProto | None:
        """The operator written in other operators, where its schema says how."""
        schema = self.find(node)
        if schema is None:
            return None
        text = None
        plain = [v for v in schema.function_opset_versions if v <= self.opset]
        if schema.has_function and plain:
            text = schema.get_function_with_opset_version(max(plain))
        elif schema.has_context_dependent_function:
            versions = schema.context_dependent_function_opset_versions
            usable = [v for v in versions if v <= self.opset]
            protos = [
                type_proto(types[name]).SerializeToString() if name else b"" for name in node.input
            ]
            if usable:
                text = schema.get_context_dependent_function_with_opset_version(
                    max(usable), node.SerializeToString(), protos
                )
        if text is None:
            return None
        body = onnx.FunctionProto.FromString(text)
        given = {attribute.name for attribute in body.attribute_proto}
        for name, declared in schema.attributes.items():
            if declared.default_value.name and name not in given:
                body.attribute_proto.append(declared.default_value)
        return body


def _check_reshape(
    node: onnx.NodeProto, types: Mapping[str, ValueType], outputs: Mapping[str, ValueType]
) -> None:
    """ONNX's inference believes any target shape."""
    if node.op_type != "Reshape" or node.domain not in STANDARD_DOMAINS:
        return
    before, after = types[node.input[0]].shape, outputs[node.output[0]].shape
    if math.prod(before) != math.prod(after):
        raise ShapeMismatchError(
            f"node {node.name!r} (Reshape) does not fit its inputs: "
            f"{list(before)} cannot become {list(after)}"
        )


def _why_open(node: onnx.NodeProto) -> str:
    if node.op_type in _DATA_DEPENDENT_OPS:
        return "the shape of its result depends on the data"
    return "the shape of its result is computed from an input's values"


def type_proto(kind: ValueType) -> onnx.TypeProto:
    """`kind` in ONNX's own form."""
    elem = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind.dtype))
    return onnx.helper.make_tensor_type_proto(elem, kind.shape)


def value_info(name: str, kind: ValueType) -> onnx.ValueInfoProto:
    """A named value of type `kind`."""
    return onnx.helper.make_value_info(name, type_proto(kind))


def static_type(proto: onnx.TypeProto | None) -> ValueType | None:
    """The type, when it is a tensor whose dimensions are all known."""
    if proto is None or not proto.HasField("tensor_type"):
        return None
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return None
    if any(not dim.HasField("dim_value") or dim.dim_value < 0 for dim in tensor.shape.dim):
        return None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return ValueType(dtype=dtype, shape=tuple(dim.dim_value for dim in tensor.shape.dim))


def first_line(error: Exception) -> str:
    """The first line of an error's text that says anything."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
