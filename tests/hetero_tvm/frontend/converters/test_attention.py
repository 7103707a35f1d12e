"""Our own nodes become calls of the attention operators, attributes and all."""

from __future__ import annotations

from onnx import helper
from tvm import relax

from hetero_tvm.frontend import converters
from hetero_tvm.frontend.converters.context import Conversion, NodeBuilder
from hetero_tvm.frontend.node_view import NodeView
from hetero_tvm.frontend.own_nodes import OWN_DOMAIN
from relay_passes.attention import ATTENTION, UPDATE_KV, AttentionAttrs


def _convert(op, names, **attributes):
    node = helper.make_node(op, names, ["y"], domain=OWN_DOMAIN, **attributes)
    values = {name: relax.Var(name, relax.TensorType((1, 2, 4, 8), "float32")) for name in names}
    view = NodeView(proto=node, opset=20, types={}, constants={})
    assert converters.is_importable(node)
    (call,) = converters.convert(Conversion(view, NodeBuilder(), values, lambda name: None))
    return call


def test_attention_keeps_its_attributes():
    call = _convert("CachedAttention", list("qkvp"), scale=0.5, softcap=3.0, window=7)
    assert call.op.name == ATTENTION
    assert AttentionAttrs.of(call) == AttentionAttrs(scale=0.5, softcap=3.0, window=7)


def test_update_takes_cache_rows_and_past_in_order():
    call = _convert("UpdateKv", list("crp"))
    assert call.op.name == UPDATE_KV
    assert [arg.name for arg in call.args] == ["c", "r", "p"]


def test_unknown_own_node_has_no_rule():
    assert not converters.is_importable(helper.make_node("Conv", ["x"], ["y"], domain=OWN_DOMAIN))
