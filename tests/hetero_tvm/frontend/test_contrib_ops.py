"""ONNX Runtime's own operators against ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from hetero_tvm.frontend import contrib_ops, converters
from hetero_tvm.frontend.contrib_ops import (
    CONTRIB_DECOMPOSITIONS,
    DEFAULTS,
    dequantise_blocks,
    unpack_bits,
)
from hetero_tvm.frontend.decompose import DECOMPOSITIONS
from hetero_tvm.frontend.shape_folding import fold_model
from hetero_tvm.frontend.tensor_spec import TensorSpec
from tests.hetero_tvm.frontend.onnx_cases import (
    INT32,
    INT64,
    ONE_OPERATOR,
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


# Optional attributes that no decomposition reads: what ONNX Runtime's processor ignores, too.
_WITHOUT_EFFECT = {
    "SimplifiedLayerNormalization": {"stash_type"},  # the type of outputs that we refuse
    "EmbedLayerNormalization": {"mask_index_type"},  # for its shape inference
    "MatMulNBits": {"accuracy_level"},  # how coarsely it may compute
    "RotaryEmbedding": {"scale"},
}


def test_defaults_are_those_of_onnx_runtime():
    schemas = {
        schema.name: schema
        for schema in get_all_operator_schema()
        if (schema.domain, schema.name) in CONTRIB_DECOMPOSITIONS
    }
    assert set(schemas) == {name for _, name in CONTRIB_DECOMPOSITIONS}
    for name, schema in schemas.items():
        ours = DEFAULTS.get(name, {})
        optional = {
            key: attribute for key, attribute in schema.attributes.items() if not attribute.required
        }
        assert set(optional) == {*ours, *_WITHOUT_EFFECT.get(name, ())}, name
        for key, value in ours.items():
            proto = onnx.AttributeProto.FromString(optional[key]._default_value)
            if proto.name:  # else the kernel has it, and the numbers below tell
                assert onnx.helper.get_attribute_value(proto) == np.float32(value), (name, key)


def _left_off():
    """`name -> (model, what each input is drawn from)` with every optional attribute left off."""
    rows, pair = {"x": [2, 3, 8]}, {"x": [2, 3, 8], "s": [2, 3, 8]}
    gain = {"g": randn(8)}
    gains = {**gain, "b": randn(8), "c": randn(8)}
    tables = {"w": randn(10, 8), "p": randn(16, 8), "t": randn(2, 8), "g": randn(8), "b": randn(8)}
    small = {name: table * np.float32(1e-2) for name, table in tables.items()}
    ids = {"i": (INT32, [2, 4]), "s": (INT32, [2, 4])}
    heads = {"q": [1, 4, 16], "k": [1, 6, 16], "v": [1, 6, 16], "m": (INT32, [1, 6])}
    packed = {"w": RNG.integers(0, 256, (6, 2, 16)).astype("uint8"), "s": randn(12)}
    places = {"x": [1, 4, 16], "p": (INT64, [1, 4])}
    return {
        "quick": _contrib("QuickGelu", "x", rows),
        "simple": model([node("SimplifiedLayerNormalization", "x g", "y")], rows, "y", gain),
        "skip_simple": _contrib("SkipSimplifiedLayerNormalization", "x s g", pair, gain),
        "skip": _contrib("SkipLayerNormalization", "x s g b c", pair, gains),
        "skip_16": _contrib("SkipLayerNormalization", "x s g", pair, gain, opset=16),
        "embed": _contrib("EmbedLayerNormalization", "i s w p t g b", ids, small, "y m"),
        "product": _contrib("FusedMatMul", "a b", {"a": [3, 8], "b": [8, 5]}),
        "nbits": _contrib("MatMulNBits", "x w s", {"x": [3, 64]}, packed, N=6, K=64, block_size=32),
        "rotary": _contrib(
            "RotaryEmbedding", "x p c s", places, {"c": randn(9, 4), "s": randn(9, 4)}
        ),
        "attention": _contrib("MultiHeadAttention", "q k v _ m", heads, num_heads=2),
    }


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-6, 0.0])
def test_what_is_left_off_means_what_onnx_runtime_means(size):
    """Before the import, by ONNX Runtime itself, so that nothing but the writing out differs."""
    for name, proto in _left_off().items():
        specs, feed = [], {}
        for value in proto.graph.input:
            shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
            specs.append(TensorSpec(name=value.name, dtype=dtype, shape=shape))
            floats = dtype == "float32"
            feed[value.name] = (
                (randn(*shape) * size).astype(dtype)
                if floats
                else RNG.integers(0, 2, shape).astype(dtype)
            )
        folded = fold_model(proto, tuple(specs), DECOMPOSITIONS, converters.is_importable).proto
        assert all(entry.domain == "" for entry in folded.graph.node), name
        got, want = (
            onnxruntime.InferenceSession(
                each.SerializeToString(), providers=["CPUExecutionProvider"]
            ).run(None, feed)[0]
            for each in (folded, proto)
        )
        error = np.linalg.norm(got - want) / max(np.linalg.norm(want), np.finfo("float32").tiny)
        assert error <= ONE_OPERATOR, (name, size, error)


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
    counts = op_counts(check(merged(cases), tmp_path))
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


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["none", "packed", "floating"])
def test_few_columns_at_a_time_give_the_same_weights(monkeypatch, kind, bits):
    """Seven columns of 40 weights, in blocks of 32, of which the last is not full."""
    packed = RNG.integers(0, 256, (7, 2, 32 * bits // 8)).astype("uint8")
    scales, zeros = randn(7, 2), None
    if kind == "packed":
        zeros = RNG.integers(0, 256, (7, 2 * bits // 8)).astype("uint8")
    elif kind == "floating":
        zeros = randn(7, 2)
    sizes = {"columns": 7, "rows": 40, "bits": bits, "block": 32}
    at_once = dequantise_blocks(packed, scales, zeros, **sizes)
    monkeypatch.setattr(contrib_ops, "_AT_A_TIME", 3 * 64)
    assert np.array_equal(dequantise_blocks(packed, scales, zeros, **sizes), at_once)
    quants = unpack_bits(packed.reshape(7, -1), bits).reshape(7, 2, 32).astype("float32")
    if kind == "none":
        middle = np.float32(1 << (bits - 1))
    else:
        middle = unpack_bits(zeros, bits).astype("float32") if kind == "packed" else zeros
        middle = middle.reshape(7, 2, 1)
    wanted = ((quants - middle) * scales.reshape(7, 2, 1)).reshape(7, -1)[:, :40]
    assert np.array_equal(at_once, wanted)
