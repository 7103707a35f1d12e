"""ONNX operators as simpler ONNX operators."""

from __future__ import annotations

from hetero_tvm.frontend.shape_folding import Decomposition

DECOMPOSITIONS: dict[tuple[str, str], Decomposition] = {}
