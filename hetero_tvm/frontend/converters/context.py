"""What a converter is given: one ONNX node with static types, and a place to emit Relax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from tvm import relax

from hetero_tvm.errors import UnsupportedModel
from hetero_tvm.frontend.node_view import NodeView, ValueType
from relay_passes.constant_file import lasting_constant


class NodeBuilder(relax.BlockBuilder):
    """A block builder that remembers the order in which it emitted variables."""

    def __init__(self) -> None:
        super().__init__()
        self.emitted: list[relax.Var] = []

    def emit(self, expr: relax.Expr, name_hint: str = "") -> relax.Var:
        """Bind `expr`; TVM's own converters come through here too."""
        var = super().emit(expr, name_hint)
        self.emitted.append(var)
        return var


class Conversion:
    """One node on its way to Relax."""

    def __init__(
        self,
        node: NodeView,
        builder: NodeBuilder,
        values: Mapping[str, relax.Expr],
        weight: Callable[[str], relax.Expr],
    ) -> None:
        self.node = node
        self.builder = builder
        self._values = values
        self._weight = weight

    def x(self, index: int = 0) -> relax.Expr:
        """Input `index` as a Relax expression."""
        name = self.node.proto.input[index]
        if name in self.node.constants:
            return self._weight(name)
        return self._values[name]

    @property
    def out(self) -> ValueType:
        """The type that the (first) result must have."""
        return self.node.out(0)

    def emit(self, expr: relax.Expr) -> relax.Var:
        """Bind an intermediate result."""
        return self.builder.emit(expr)

    def scalar(self, value: float, dtype: str | None = None) -> relax.Expr:
        """A rank-0 constant, of the first input's dtype unless told otherwise."""
        return constant(np.asarray(value, dtype=dtype or self.node.dtype(0)))

    def array(self, value: Any, dtype: str | None = None) -> relax.Expr:
        """A constant."""
        return constant(np.asarray(value, dtype=dtype))

    def reshape(self, expr: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
        """`expr` in another shape; `expr` itself when it has that shape already."""
        if isinstance(expr, relax.Var) and static_shape(expr) == tuple(shape):
            return expr
        return self.emit(relax.op.reshape(expr, tuple(shape)))

    def unsupported(self, why: str) -> UnsupportedModel:
        """The error for a form of this operator that no rule covers."""
        return UnsupportedModel(f"node {self.node.label}: {why}")


Converter = Callable[[Conversion], "relax.Expr | list[relax.Expr]"]


def constant(array: np.ndarray) -> relax.Expr:
    """A Relax constant that owns a copy of `array`, and has its dtype.

    (Given a numpy array, `relax.const` would turn int64 into int32 and float64 into float32.)
    """
    return lasting_constant(array)


def static_shape(expr: relax.Expr) -> tuple[int, ...]:
    """The shape of a tensor expression whose dimensions are all known."""
    return tuple(int(dim) for dim in expr.ty.shape.values)


def attribute_dict(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes by name, in the raw types that ONNX's helper gives."""
    return {attr.name: onnx.helper.get_attribute_value(attr) for attr in node.attribute}
