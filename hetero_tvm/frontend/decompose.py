"""ONNX operators as simpler ONNX operators.

A rule writes the replacement into an `Emitter` and returns True; it returns False to leave the
node to a converter. Rules see static shapes and known constants, and what they write is walked
again, so it may itself be folded or decomposed.
"""

from __future__ import annotations

import math

from hetero_tvm.frontend.contrib_ops import CONTRIB_DECOMPOSITIONS
from hetero_tvm.frontend.decompose_quantised import QUANTISED_DECOMPOSITIONS
from hetero_tvm.frontend.decompose_recurrent import RECURRENT_DECOMPOSITIONS
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


def _einsum(node: NodeView, out: Emitter) -> bool:
    """Two operands as one batched product; one operand as a sum and a transpose."""
    equation = node.attr("equation").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or len(terms) > 2:
        return False
    if any(len(set(term)) != len(term) for term in terms):
        return False
    extent = {
        label: size
        for index, term in enumerate(terms)
        for label, size in zip(term, node.shape(index), strict=True)
    }
    operands = []
    for index, term in enumerate(terms):
        others = set(result).union(*(t for i, t in enumerate(terms) if i != index))
        alone = [axis for axis, label in enumerate(term) if label not in others]
        value = node.input(index)
        if alone:
            value = out.reduce("ReduceSum", value, alone, keepdims=False)
        operands.append((value, "".join(label for label in term if label in others)))
    value, labels = operands[0]
    if len(operands) == 2:
        value, labels = _product(out, operands, result, extent)
    if labels != result:
        value = out.transpose(value, [labels.index(label) for label in result])
    out.output(value)
    return True


def _product(
    out: Emitter, operands: list[tuple[str, str]], result: str, extent: dict[str, int]
) -> tuple[str, str]:
    """`[batch, left, summed] x [batch, summed, right]`, every group flattened to one axis."""
    (a, a_labels), (b, b_labels) = operands
    shared = [label for label in a_labels if label in b_labels]
    batch = [label for label in shared if label in result]
    summed = [label for label in shared if label not in result]
    lefts = [label for label in a_labels if label not in shared]
    rights = [label for label in b_labels if label not in shared]

    def arranged(value: str, labels: str, *groups: list[str]) -> str:
        order = [label for group in groups for label in group]
        if order != list(labels):
            value = out.transpose(value, [labels.index(label) for label in order])
        sizes = [math.prod(extent[label] for label in group) for group in groups]
        return out.reshape(value, sizes)

    product = out.op(
        "MatMul",
        arranged(a, a_labels, batch, lefts, summed),
        arranged(b, b_labels, batch, summed, rights),
    )
    labels = [*batch, *lefts, *rights]
    return out.reshape(product, [extent[label] for label in labels]), "".join(labels)


DECOMPOSITIONS: dict[tuple[str, str], Decomposition] = {
    ("", "HardSigmoid"): _hard_sigmoid,
    ("", "Einsum"): _einsum,
    **RECURRENT_DECOMPOSITIONS,
    **QUANTISED_DECOMPOSITIONS,
    **CONTRIB_DECOMPOSITIONS,
}
