"""ONNX nodes of our own, for what ONNX has no operator for: attention over a cache in place.

    UpdateKv(cache, rows, past) -> cache
    CachedAttention(q, k_cache, v_cache, past; scale, softcap, window) -> mixed values

They exist between folding and conversion only; `relay_passes.attention` says what they mean and
gives their shapes.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from hetero_tvm.frontend.node_view import ValueType

OWN_DOMAIN = "hetero_tvm"


def own_types(node: onnx.NodeProto, types: Mapping[str, ValueType]) -> dict[str, ValueType]:
    """Static types of the results of `node`, which is of our domain."""
    first = types[node.input[0]]
    if node.op_type == "UpdateKv":
        return {node.output[0]: first}
    batch, heads, length, _ = first.shape
    depth = types[node.input[2]].shape[3]
    return {node.output[0]: ValueType(dtype=first.dtype, shape=(batch, length, heads * depth))}
