"""Types of our own nodes are those of the Relax operators that they become."""

from __future__ import annotations

from onnx import helper

from hetero_tvm.frontend.node_view import ValueType
from hetero_tvm.frontend.own_nodes import OWN_DOMAIN, own_types


def F(*shape):
    return ValueType(dtype="float32", shape=shape)


def test_cache_keeps_its_type():
    node = helper.make_node("UpdateKv", ["c", "r", "p"], ["y"], domain=OWN_DOMAIN)
    types = {"c": F(1, 2, 9, 4), "r": F(1, 2, 3, 4), "p": ValueType(dtype="int32", shape=(1,))}
    assert own_types(node, types) == {"y": F(1, 2, 9, 4)}


def test_attention_lays_heads_side_by_side():
    node = helper.make_node("CachedAttention", list("qkvp"), ["y"], domain=OWN_DOMAIN)
    types = {"q": F(1, 6, 3, 4), "k": F(1, 2, 9, 4), "v": F(1, 2, 9, 5)}
    assert own_types(node, types) == {"y": F(1, 3, 30)}
