"""A region for the NPU, written as a small static ONNX model.

    {Relax ops of one dataflow block}  ->  ModelProto with in0.. -> out0.., weights inside

ONNX is what the NPU's compiler takes, and what ONNX Runtime's CPU provider runs where there is no
NPU. One emitter per Relax operator, in `EMITTERS`; `npu_support` has one rule for each.

Requires: every operator passes `npu_support.decline_reason`; shapes are static.
Ensures:  a self-contained model that ONNX Runtime accepts; equal regions give equal bytes.
"""

from __future__ import annotations

from relay_passes.npu_onnx import elementwise, neural, product, shaping
from relay_passes.npu_onnx.graph import EMITTERS, OUTSIDE_FILE, Keep, OutsideWeight
from relay_passes.npu_onnx.model import NotExpressible, emit_region, region_to_onnx
from relay_passes.npu_onnx.product import BlockCodes, ChooseForm, ProductForm, htp_form

__all__ = [
    "EMITTERS",
    "OUTSIDE_FILE",
    "BlockCodes",
    "ChooseForm",
    "Keep",
    "NotExpressible",
    "OutsideWeight",
    "ProductForm",
    "elementwise",
    "emit_region",
    "htp_form",
    "neural",
    "product",
    "region_to_onnx",
    "shaping",
]
