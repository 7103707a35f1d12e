"""Where a decomposition writes the ONNX nodes that replace one node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from hetero_tvm.frontend.node_view import NodeView

AXES_AS_INPUT = {"Squeeze": 13, "Unsqueeze": 13, "ReduceSum": 13}
_REDUCTIONS_AXES_AS_INPUT = 18
_CLIP_BOUNDS_AS_INPUTS = 11


class Emitter:
    """Collects nodes in order; hides where the model's opset wants `axes`.

    Requires: `fresh` returns a name that no value of the model has.
    """

    def __init__(self, node: NodeView, fresh: Callable[[str], str]) -> None:
        self._node = node
        self._fresh = fresh
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append one node with one output; returns the output's name."""
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Append one node with several outputs; returns their names."""
        label = f"{self._node.proto.name or self._node.proto.output[0]}/{op_type}"
        names = [self._fresh(label) for _ in range(outputs)]
        self.nodes.append(
            onnx.helper.make_node(op_type, list(inputs), names, name=names[0], **attributes)
        )
        return names

    def const(self, value: Any, dtype: str) -> str:
        """A constant; returns its name."""
        name = self._fresh(f"{self._node.proto.name or self._node.proto.output[0]}/const")
        self.constants[name] = np.asarray(value, dtype=dtype)
        return name

    def output(self, value: str, index: int = 0) -> None:
        """Let output `index` of the replaced node be `value`; nothing when it is unused."""
        if self._node.has_output(index):
            target = self._node.proto.output[index]
            self.nodes.append(onnx.helper.make_node("Identity", [value], [target]))

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """`Reshape` to a static shape."""
        return self.op("Reshape", value, self.const(list(shape), "int64"))

    def transpose(self, value: str, perm: Sequence[int]) -> str:
        """`Transpose`."""
        return self.op("Transpose", value, perm=list(perm))

    def slice(self, value: str, axis: int, begin: int, end: int) -> str:
        """`value[begin:end]` along `axis`."""
        bounds = [self.const([number], "int64") for number in (begin, end, axis)]
        return self.op("Slice", value, *bounds)

    def clip(self, value: str, low: float, high: float, dtype: str) -> str:
        """`Clip` to known bounds."""
        if self._node.opset >= _CLIP_BOUNDS_AS_INPUTS:
            return self.op("Clip", value, self.const(low, dtype), self.const(high, dtype))
        return self.op("Clip", value, min=low, max=high)

    def reduce(self, op_type: str, value: str, axes: Sequence[int], keepdims: bool = True) -> str:
        """A reduction such as `ReduceMean`."""
        since = AXES_AS_INPUT.get(op_type, _REDUCTIONS_AXES_AS_INPUT)
        if self._node.opset >= since:
            return self.op(op_type, value, self.const(list(axes), "int64"), keepdims=int(keepdims))
        return self.op(op_type, value, axes=list(axes), keepdims=int(keepdims))
