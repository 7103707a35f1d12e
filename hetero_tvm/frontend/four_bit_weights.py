"""The 4- and 8-bit weights of a model as its file stores them, beside what the import makes.

The import writes `MatMulNBits` as a product with a float matrix. Which codes, scales and zero
points that matrix came from is kept here, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from schedules.w4a16_table import W4Blocks

_NONE_MAPPED: Mapping[str, np.ndarray] = {}


def four_bit_weights(
    proto: onnx.ModelProto, mapped: Mapping[str, np.ndarray] = _NONE_MAPPED
) -> tuple[W4Blocks, ...]:
    """Of every `MatMulNBits` node of four or eight bits whose weight is constant, in program order.

    `mapped`: values of initializers that have none in `proto`.
    """
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    found = []
    for node in proto.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        names = [*node.input[1:], *[""] * 4]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        parts = [
            mapped[name] if name in mapped else numpy_helper.to_array(weights[name])
            for name in names[:3]
            if name in weights
        ]
        # Not all constant, of other bits, or with a permutation of the groups.
        bits = attributes.get("bits", 4)
        if len(parts) < 2 + bool(names[2]) or bits not in (4, 8) or names[3]:
            continue
        columns, blocks = attributes["N"], -(-attributes["K"] // attributes["block_size"])
        found.append(
            W4Blocks(
                packed=parts[0].reshape(columns, blocks, -1),
                scales=parts[1].reshape(columns, blocks),
                zeros=parts[2] if names[2] else None,
                depth=attributes["K"],
                bits=bits,
            )
        )
    return tuple(found)
