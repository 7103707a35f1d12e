"""Refuse programs in which a tensor without elements is left: devices have no kernels for it.

Most such tensors go while shapes are folded (a concatenation drops them); what is left is an output
of the model, or reaches one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from tvm import IRModule, relax

from hetero_tvm.errors import UnsupportedModel
from hetero_tvm.frontend.tensor_spec import TensorSpec
from relay_passes.leaves import leaves, variables
from relay_passes.op_work import static_shape


def refuse_empty_tensors(
    mod: IRModule, outputs: Sequence[TensorSpec], node_of: Mapping[str, str]
) -> None:
    """Every operator of `main` that an output needs makes and reads elements.

    Raises:
        UnsupportedModel: naming the outputs, or else the nodes, that do not.
    """
    empty = [spec for spec in outputs if 0 in spec.shape]
    if empty:
        words = "; ".join(f"output {s.name!r} of shape {list(s.shape)}" for s in empty)
        raise UnsupportedModel(f"{words} has 0 elements; remove it from the model's outputs")
    bindings = {
        binding.var: binding.value
        for block in mod["main"].body.blocks
        for binding in block.bindings
    }
    pending, needed = list(variables(mod["main"].body.body)), set[relax.Var]()
    while pending:
        var = pending.pop()
        if var in bindings and var not in needed:
            needed.add(var)
            pending += variables(bindings[var])
    nodes = {
        node_of.get(var.name, var.name): list(shape)
        for var, value in bindings.items()
        if var in needed
        for shape in _shapes(var, value)
        if math.prod(shape) == 0
    }
    if nodes:
        words = "; ".join(f"node {node!r}: shape {shape}" for node, shape in nodes.items())
        raise UnsupportedModel(f"tensors of 0 elements, which no device computes with: {words}")


def _shapes(var: relax.Var, value: relax.Expr) -> Iterator[tuple[int, ...]]:
    """Of what a binding reads and makes, as far as it is one tensor each."""
    for expr in (var, *leaves(value)):
        shape = static_shape(expr.ty) if isinstance(expr.ty, relax.TensorType) else None
        if shape is not None:
            yield shape
