"""One ONNX node together with everything that is known about it: types, shapes, constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

STANDARD_DOMAINS = ("", "ai.onnx")
# What kernels compute with; narrower numbers are only stored.
COMPUTED_DTYPES = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()
    + "bfloat16 float16 float32 float64".split()
)


@dataclass(frozen=True, kw_only=True)
class ValueType:
    """Numpy dtype name and static shape of one value."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """A read-only view of `proto`; optional inputs that are absent read as `None`."""

    proto: onnx.NodeProto
    opset: int
    types: Mapping[str, ValueType]
    constants: Mapping[str, np.ndarray]

    @property
    def op(self) -> str:
        """The operator's name without its domain."""
        return self.proto.op_type

    @property
    def label(self) -> str:
        """How messages call the node."""
        return f"{self.proto.name or self.proto.output[0]!r} ({qualified_op(self.proto)})"

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute's value; strings arrive as `str`, tensors as arrays."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                if isinstance(value, bytes):
                    return value.decode()
                if isinstance(value, onnx.TensorProto):
                    return onnx.numpy_helper.to_array(value)
                return value
        return default

    def has(self, index: int) -> bool:
        """Is input `index` connected?"""
        return index < len(self.proto.input) and bool(self.proto.input[index])

    def has_output(self, index: int) -> bool:
        """Is output `index` named?"""
        return index < len(self.proto.output) and bool(self.proto.output[index])

    def input(self, index: int) -> str:
        """The name of input `index`, empty when it is absent."""
        return self.proto.input[index] if self.has(index) else ""

    def type(self, index: int) -> ValueType:
        """The type of input `index`, which is connected."""
        return self.types[self.proto.input[index]]

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of input `index`, which is connected."""
        return self.type(index).shape

    def dtype(self, index: int) -> str:
        """The dtype of input `index`, which is connected."""
        return self.type(index).dtype

    def out(self, index: int = 0) -> ValueType:
        """The type of output `index`."""
        return self.types[self.proto.output[index]]

    def const(self, index: int) -> np.ndarray | None:
        """The value of input `index` when it is known, else `None`."""
        return self.constants.get(self.input(index))

    def ints(self, name: str, index: int) -> list[int] | None:
        """A list of integers that older opsets keep in attribute `name`, newer ones in an input.

        Returns `None` when it is given nowhere or is not known at compile time.
        """
        value = self.attr(name)
        if value is None:
            value = self.const(index)
        if value is None:
            return None
        return [int(item) for item in np.atleast_1d(np.asarray(value)).reshape(-1)]


def qualified_op(node: onnx.NodeProto) -> str:
    """`Conv`, or `com.microsoft.QuickGelu` outside the standard domain."""
    if node.domain in STANDARD_DOMAINS:
        return node.op_type
    return f"{node.domain}.{node.op_type}"
