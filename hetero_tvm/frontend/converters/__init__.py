"""ONNX operator -> Relax: our own rules, then TVM's."""

from __future__ import annotations

import onnx
from tvm import relax
from tvm.ir import GenericConst

from hetero_tvm.frontend.converters import (
    attention,
    convolution,
    elementwise,
    linear,
    reduction,
    resize,
    shaping,
    tvm_fallback,
)
from hetero_tvm.frontend.converters.context import Conversion, Converter
from hetero_tvm.frontend.node_view import STANDARD_DOMAINS
from hetero_tvm.frontend.own_nodes import OWN_DOMAIN

CONVERTERS: dict[str, Converter] = {
    "Identity": lambda c: c.x(),
    **elementwise.CONVERTERS,
    **shaping.CONVERTERS,
    **linear.CONVERTERS,
    **convolution.CONVERTERS,
    **reduction.CONVERTERS,
    **resize.CONVERTERS,
}


def is_importable(node: onnx.NodeProto) -> bool:
    """Is there a rule for this operator?"""
    if node.domain == OWN_DOMAIN:
        return node.op_type in attention.OWN_CONVERTERS
    if node.domain not in STANDARD_DOMAINS:
        return False
    return node.op_type in CONVERTERS or tvm_fallback.covers(node.op_type)


def convert(c: Conversion) -> list[relax.Expr]:
    """The node's results, in order of its outputs."""
    rules = attention.OWN_CONVERTERS if c.node.proto.domain == OWN_DOMAIN else CONVERTERS
    rule = rules.get(c.node.op)
    if rule is None:
        return tvm_fallback.convert(c)
    results = rule(c)
    return results if isinstance(results, list) else [results]


def is_constant(expr: relax.Expr) -> bool:
    """Is `expr` a weight?"""
    return isinstance(expr, GenericConst)
