"""An ONNX graph under construction, and the table of emitters that fill it.

Names are handed out in order, so the same region always gives the same bytes (they are the key
of the compile cache).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper
from tvm import relax

Operand: TypeAlias = Any
"""The ONNX name of a tensor (str), or the names of a tuple's fields (tuple of str)."""

Emitter = Callable[["OnnxGraph", relax.Call, list[Operand]], Operand]

EMITTERS: dict[str, Emitter] = {}
"""Relax operator name -> what writes it as ONNX. `npu_support` has one rule for each."""

FLOAT16_MAX = 65504.0
MICROSOFT = "com.microsoft"  # domain of ONNX Runtime's own operators
OUTSIDE_FILE = "weight_part"  # where models say that weights are; kFileName of weight_part.h too
LEAST_OUTSIDE_BYTES = 1024  # smaller ones stay: ONNX Runtime wants to see shapes and axes
Keep = Callable[[np.ndarray], int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutsideWeight:
    """A weight that lies outside of the model."""

    name: str  # in the model
    dtype: str
    shape: tuple[int, ...]
    number: int  # what `Keep` gave
    offset: int = 0  # bytes from the beginning of the file, once that is known


def emits(*ops: str) -> Callable[[Emitter], Emitter]:
    """Enter the decorated function into `EMITTERS` for each of `ops`."""

    def register(emitter: Emitter) -> Emitter:
        for op in ops:
            assert op not in EMITTERS, f"second emitter for {op}"
            EMITTERS[op] = emitter
        return emitter

    return register


class OnnxGraph:
    """Collects nodes and initialisers.

    `half_inside`: the NPU stores intermediate values in float16 whatever their declared type,
    so emitters choose forms whose intermediate values survive that.
    `product_form`: the form of a matrix product, see `product`.
    `keep`: takes a large constant that is to lie outside of the model, and gives its number; None:
    they are in the model.
    """

    def __init__(
        self,
        *,
        half_inside: bool,
        prefix: str = "",
        product_form: Callable[[relax.Call], Any] = lambda call: "as_written",
        keep: Keep | None = None,
    ) -> None:
        self._prefix = prefix  # of all names, for a graph inside another
        self.half_inside = half_inside
        self.product_form = product_form
        self.keep = keep
        self.kept: dict[str, np.ndarray] = {}  # initialiser -> what `keep` is to get
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._known: dict[object, str] = {}

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; the name of that output."""
        return self.nodes_out(op, list(inputs), 1, **attributes)[0]

    def nodes_out(
        self, op: str, inputs: Sequence[str], count: int, **attributes: Any
    ) -> tuple[str, ...]:
        """Append a node with `count` outputs; their names."""
        index = len(self.nodes)
        first = f"{self._prefix}t{index}"
        names = (first,) if count == 1 else tuple(f"{first}_{i}" for i in range(count))
        self.nodes.append(helper.make_node(op, inputs, names, name=f"n{index}", **attributes))
        return names

    def name_output(self, source: str, result: str) -> None:
        """Make `source` the graph output `result`; by a copy where it already is something else."""
        for node in self.nodes:
            if source in node.output and not source.startswith("out"):
                self._rename(source, result)
                return
        copy = helper.make_node("Identity", [source], [result], name=f"n{len(self.nodes)}")
        self.nodes.append(copy)

    def _rename(self, old: str, new: str) -> None:
        for node in self.nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == old:
                        names[index] = new

    def constant(self, value: np.ndarray) -> str:
        """The name of an initialiser that holds `value`; equal values share one."""
        if self.keep is not None and value.nbytes >= LEAST_OUTSIDE_BYTES:
            return self._outside(value)
        value = np.ascontiguousarray(value) if value.ndim else value
        if self.half_inside and value.dtype == np.float32:
            # Float16 would make an infinity of it; nothing but a mask is that large (npu_support
            # declines other uses), and a mask works with any number that softmax turns into 0.
            value = np.clip(value, -FLOAT16_MAX, FLOAT16_MAX)
        key = (value.dtype.str, value.shape, hashlib.sha256(value.data).digest())
        if key not in self._known:
            self._known[key] = f"c{len(self._known)}"
            self.initializers.append(numpy_helper.from_array(value, self._known[key]))
        return self._known[key]

    def _outside(self, value: np.ndarray) -> str:
        """An initialiser without values; of one array there is one."""
        place = value.__array_interface__["data"][0]
        key = (value.dtype.str, value.shape, value.strides, place)
        if key not in self._known:
            name = self._known[key] = f"c{len(self._known)}"
            tensor = onnx.TensorProto(name=name, dims=value.shape)
            tensor.data_type = element_type(value.dtype.name)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for entry in (("location", OUTSIDE_FILE), ("length", str(value.nbytes))):
                tensor.external_data.add(key=entry[0], value=entry[1])
            self.initializers.append(tensor)
            self.kept[name] = value
        return self._known[key]

    def scalar(self, value: float, dtype: str) -> str:
        """A rank-0 constant."""
        return self.constant(np.asarray(value, dtype=dtype))

    def ints(self, values: Sequence[int]) -> str:
        """A constant list for ONNX's shape-like operands."""
        return self.constant(np.asarray(values, dtype=np.int64))


def dtype_of(expr: relax.Expr) -> str:
    """Element type of a tensor expression."""
    return str(expr.ty.dtype)


def element_type(dtype: str) -> int:
    """ONNX's number of an element type."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def shape_of(expr: relax.Expr) -> tuple[int, ...]:
    """Static shape of a tensor expression."""
    return shape_of_type(expr.ty)


def shape_of_type(ty: relax.TensorType) -> tuple[int, ...]:
    """Static shape of a tensor type."""
    return tuple(int(dim) for dim in ty.shape.values)


def int_list(values: object) -> list[int]:
    """Plain integers out of an attribute, a Relax tuple or a shape."""
    fields = getattr(values, "fields", getattr(values, "values", values))
    return [int(getattr(field, "value", field)) for field in fields]  # type: ignore[attr-defined]
