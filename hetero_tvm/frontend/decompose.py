"""ONNX operators as simpler ONNX operators.

A rule writes the replacement into an `Emitter` and returns True; it returns False to leave the
node to a converter. Rules see static shapes and known constants, and what they write is walked
again, so it may itself be folded or decomposed.
"""

from __future__ import annotations

from hetero_tvm.frontend.emitter import Emitter
from hetero_tvm.frontend.node_view import NodeView
from hetero_tvm.frontend.shape_folding import Decomposition


def _hard_sigmoid(node: NodeView, out: Emitter) -> bool:
    """In steps, so that the scale and shift can join the convolution before them."""
    dtype = node.dtype(0)
    scaled = out.op("Mul", node.input(0), out.const(node.attr("alpha", 0.2), dtype))
    line = out.op("Add", scaled, out.const(node.attr("beta", 0.5), dtype))
    out.output(out.clip(line, 0.0, 1.0, dtype))
    return True


DECOMPOSITIONS: dict[tuple[str, str], Decomposition] = {
    ("", "HardSigmoid"): _hard_sigmoid,
}
