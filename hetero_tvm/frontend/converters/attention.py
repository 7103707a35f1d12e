"""Our own nodes (`own_nodes.py`) to the operators of `relay_passes.attention`."""

from __future__ import annotations

from tvm import relax

from hetero_tvm.frontend.converters.context import Conversion, Converter
from relay_passes.attention import AttentionAttrs, attention, update_kv


def _update_kv(c: Conversion) -> relax.Expr:
    return update_kv(c.x(0), c.x(1), c.x(2))


def _cached_attention(c: Conversion) -> relax.Expr:
    attrs = AttentionAttrs(
        scale=c.node.attr("scale"),
        softcap=c.node.attr("softcap", 0.0),
        window=c.node.attr("window", 0),
    )
    return attention(c.x(0), c.x(1), c.x(2), c.x(3), attrs)


OWN_CONVERTERS: dict[str, Converter] = {
    "UpdateKv": _update_kv,
    "CachedAttention": _cached_attention,
}
