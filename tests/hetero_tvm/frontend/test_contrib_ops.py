"""ONNX Runtime's own operators against ONNX Runtime."""

import numpy as np
import pytest

from hetero_tvm.frontend.contrib_ops import dequantise_blocks
from tests.hetero_tvm.frontend.onnx_cases import (
    INT32,
    INT64,
    RNG,
    check,
    merged,
    model,
    node,
    op_counts,
    randn,
)


def _contrib(op, names, inputs, weights=None, outputs="y", opset=17, **attributes):
    nodes = [node(op, names, outputs, domain="com.microsoft", **attributes)]
    return model(nodes, inputs, outputs.replace("_", ""), weights, opset)


def test_activations_become_single_operators(tmp_path):
    shape = {"x": [2, 3, 8]}
    cases = {
        "gelu": _contrib("Gelu", "x", shape),
        "bias": _contrib("BiasGelu", "x b", shape, {"b": randn(8)}),
        "fast": _contrib("FastGelu", "x", shape),
        "quick": _contrib("QuickGelu", "x", shape),
    }
    counts = op_counts(check(merged(cases), tmp_path))
    assert counts == {"nn.gelu": 2, "nn.gelu_tanh": 1, "add": 1, "multiply": 2, "sigmoid": 1}


@pytest.mark.parametrize("opset", [14, 17])
def test_normalisations_become_single_operators(tmp_path, opset):
    pair = {"x": [2, 3, 8], "s": [2, 3, 8]}
    gains = {"g": randn(8), "b": randn(8), "c": randn(8)}
    simple = model(
        [node("SimplifiedLayerNormalization", "x g", "y", axis=-1, epsilon=1e-6)],
        {"x": [2, 3, 8]},
        "y",
        {"g": randn(8)},
        opset,
    )
    skip = dict(inputs=pair, opset=opset)
    cases = {
        "simple": simple,
        "skip_simple": _contrib(
            "SkipSimplifiedLayerNormalization",
            "x s g",
            weights={"g": randn(8)},
            outputs="y _ _ t",
            **skip,
        ),
        "skip": _contrib("SkipLayerNormalization", "x s g b c", weights=gains, **skip),
    }
    # Rows whose values nearly cancel keep fewer digits, in either order of summing.
    counts = op_counts(check(merged(cases), tmp_path, tolerance=2e-5))
    assert counts == {"nn.rms_norm": 2, "nn.layer_norm": 1, "add": 3}


def test_embeddings(tmp_path):
    tables = {"w": randn(10, 8), "p": randn(16, 8), "t": randn(2, 8), "g": randn(8), "b": randn(8)}
    ids = {"i": (INT32, [2, 4]), "s": (INT32, [2, 4])}
    proto = _contrib("EmbedLayerNormalization", "i s w p t g b", ids, tables, "y m")
    counts = op_counts(check(proto, tmp_path))
    assert counts["take"] == 2
    assert counts["nn.layer_norm"] == 1


def test_fused_matmul(tmp_path):
    inputs = {"a": [2, 3, 8], "b": [2, 5, 8]}
    check(_contrib("FusedMatMul", "a b", inputs, transB=1, alpha=0.3), tmp_path)


def test_rotary_embedding_and_attention(tmp_path):
    caches = {"c": randn(9, 4), "s": randn(9, 4)}
    three = {"x": [1, 4, 16], "p": (INT64, [1, 4])}
    four = {"x": [1, 2, 4, 8], "p": (INT64, [1])}
    heads = {"q": [1, 4, 16], "k": [1, 6, 16], "v": [1, 6, 16], "m": (INT32, [1, 6])}
    cases = {
        "rotary": _contrib("RotaryEmbedding", "x p c s", three, caches),
        "attention": _contrib(
            "MultiHeadAttention", "q k v b m", heads, {"b": randn(48)}, num_heads=2
        ),
    }
    check(merged(cases), tmp_path)
    small = {"p": np.array([2])}
    proto = _contrib("RotaryEmbedding", "x p c s", {"x": four["x"]}, {**caches, **small})
    check(proto, tmp_path)


@pytest.mark.parametrize("zeros", ["none", "packed", "floating"])
def test_packed_weights_are_exact(tmp_path, zeros):
    weights = {"w": RNG.integers(0, 256, (6, 2, 16)).astype("uint8"), "s": randn(12)}
    names = "x w s"
    if zeros != "none":
        names += " z"
        packed = RNG.integers(0, 256, 6).astype("uint8")
        weights["z"] = packed if zeros == "packed" else randn(12)
    proto = _contrib(
        "MatMulNBits", names, {"x": [3, 64]}, weights, N=6, K=64, bits=4, block_size=32
    )
    assert op_counts(check(proto, tmp_path)) == {"matmul": 1}


def test_blocks_are_unpacked_lowest_bits_first():
    packed = np.array([[[0x21, 0x43]]], "uint8")
    weight = dequantise_blocks(
        packed, np.array([2.0], "float32"), None, columns=1, rows=4, bits=4, block=4
    )
    assert weight.tolist() == [[(1 - 8) * 2, (2 - 8) * 2, (3 - 8) * 2, (4 - 8) * 2]]
