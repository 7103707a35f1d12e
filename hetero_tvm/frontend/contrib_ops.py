"""ONNX Runtime's own operators (`com.microsoft`) as standard ones.

The written-out forms of GELU and of the normalisations are put together again after the import
(`relay_passes.fuse_gelu` and others), so nothing is lost by taking them apart here, and models
below the opset that introduced an operator need no special case.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hetero_tvm.frontend.emitter import Emitter
from hetero_tvm.frontend.node_view import NodeView
from hetero_tvm.frontend.shape_folding import Decomposition

MICROSOFT = "com.microsoft"
_AT_A_TIME = 1 << 21  # weights that are dequantised together
_LAYER_NORM_SINCE = 17
# What an attribute is that a node leaves out, as ONNX Runtime's schemas and kernels have it.
DEFAULTS: dict[str, dict[str, float]] = {
    "QuickGelu": {"alpha": 1.702},
    "SimplifiedLayerNormalization": {"axis": -1, "epsilon": 1e-5},
    "SkipSimplifiedLayerNormalization": {"epsilon": 1e-12},
    "SkipLayerNormalization": {"epsilon": 1e-12},
    "EmbedLayerNormalization": {"epsilon": 1e-12},
    "FusedMatMul": {"alpha": 1.0, "transA": 0, "transB": 0, "transBatchA": 0, "transBatchB": 0},
    "MatMulNBits": {"bits": 4, "weight_prepacked": 0},
    "RotaryEmbedding": {
        "num_heads": 0,
        "rotary_embedding_dim": 0,
        "interleaved": 0,
        "is_packed_batching": 0,
    },
    "MultiHeadAttention": {"mask_filter_value": -10000.0, "scale": 0.0, "unidirectional": 0},
}


def _attr(node: NodeView, name: str) -> Any:
    return node.attr(name, DEFAULTS[node.op][name])


# -- activations -------------------------------------------------------------------------------


def _exact_gelu(node: NodeView, out: Emitter, x: str) -> str:
    dtype = node.dtype(0)
    curve = out.op("Erf", out.op("Div", x, out.const(math.sqrt(2.0), dtype)))
    gate = out.op("Add", curve, out.const(1.0, dtype))
    return out.op("Mul", out.op("Mul", x, gate), out.const(0.5, dtype))


def _tanh_gelu(node: NodeView, out: Emitter, x: str) -> str:
    dtype = node.dtype(0)
    cube = out.op("Mul", out.op("Mul", x, x), x)
    bent = out.op("Add", x, out.op("Mul", cube, out.const(0.044715, dtype)))
    curve = out.op("Tanh", out.op("Mul", bent, out.const(math.sqrt(2 / math.pi), dtype)))
    gate = out.op("Add", curve, out.const(1.0, dtype))
    return out.op("Mul", out.op("Mul", x, gate), out.const(0.5, dtype))


def _gelu(node: NodeView, out: Emitter) -> bool:
    out.output(_exact_gelu(node, out, node.input(0)))
    return True


def _bias_gelu(node: NodeView, out: Emitter) -> bool:
    out.output(_exact_gelu(node, out, out.op("Add", node.input(0), node.input(1))))
    return True


def _fast_gelu(node: NodeView, out: Emitter) -> bool:
    x = out.op("Add", node.input(0), node.input(1)) if node.has(1) else node.input(0)
    out.output(_tanh_gelu(node, out, x))
    return True


def _quick_gelu(node: NodeView, out: Emitter) -> bool:
    alpha = _attr(node, "alpha")
    x = node.input(0)
    scaled = x if alpha == 1 else out.op("Mul", x, out.const(alpha, node.dtype(0)))
    out.output(out.op("Mul", x, out.op("Sigmoid", scaled)))
    return True


# -- normalisations ----------------------------------------------------------------------------


def _epsilon(node: NodeView, out: Emitter, dtype: str) -> str:
    """A constant above zero in `dtype` too: a row of zeros stays zeros, as ONNX Runtime has it."""
    least = float(np.finfo(dtype).smallest_subnormal) if dtype == "float16" else 0.0
    return out.const(max(_attr(node, "epsilon"), least), dtype)


def _rms_norm(node: NodeView, out: Emitter, x: str, gain: str, axis: int) -> str:
    """`x / sqrt(mean(x^2) + eps) * gain` over the axes from `axis` on."""
    dtype, rank = node.dtype(0), len(node.shape(0))
    mean = out.reduce("ReduceMean", out.op("Mul", x, x), list(range(axis, rank)))
    spread = out.op("Sqrt", out.op("Add", mean, _epsilon(node, out, dtype)))
    return out.op("Mul", out.op("Div", x, spread), gain)


def _layer_norm(node: NodeView, out: Emitter, x: str, gain: str, bias: str) -> str:
    dtype, last = node.dtype(0), [len(node.shape(0)) - 1]
    if node.opset >= _LAYER_NORM_SINCE:
        inputs = [x, gain, bias] if bias else [x, gain]
        return out.op("LayerNormalization", *inputs, axis=-1, epsilon=_attr(node, "epsilon"))
    centred = out.op("Sub", x, out.reduce("ReduceMean", x, last))
    variance = out.reduce("ReduceMean", out.op("Mul", centred, centred), last)
    spread = out.op("Sqrt", out.op("Add", variance, _epsilon(node, out, dtype)))
    scaled = out.op("Mul", out.op("Div", centred, spread), gain)
    return out.op("Add", scaled, bias) if bias else scaled


def _simplified_layer_norm(node: NodeView, out: Emitter) -> bool:
    if node.has_output(1):
        return False
    axis = _attr(node, "axis") % len(node.shape(0))
    out.output(_rms_norm(node, out, node.input(0), node.input(1), axis))
    return True


def _skip_sum(node: NodeView, out: Emitter, bias_index: int) -> str:
    total = out.op("Add", node.input(0), node.input(1))
    return out.op("Add", total, node.input(bias_index)) if node.has(bias_index) else total


def _skip_simplified_layer_norm(node: NodeView, out: Emitter) -> bool:
    if node.has_output(1) or node.has_output(2):
        return False
    total = _skip_sum(node, out, 3)
    out.output(_rms_norm(node, out, total, node.input(2), len(node.shape(0)) - 1))
    out.output(total, 3)
    return True


def _skip_layer_norm(node: NodeView, out: Emitter) -> bool:
    if node.has_output(1) or node.has_output(2):
        return False
    total = _skip_sum(node, out, 4)
    out.output(_layer_norm(node, out, total, node.input(2), node.input(3)))
    out.output(total, 3)
    return True


def _embed_layer_norm(node: NodeView, out: Emitter) -> bool:
    """Inputs: ids, segments, word, position and segment tables, gain, bias, mask, positions."""
    batch, length = node.shape(0)
    total = out.op("Gather", node.input(2), node.input(0), axis=0)
    if node.has(8):
        places = out.op("Gather", node.input(3), node.input(8), axis=0)
    else:
        places = out.slice(node.input(3), 0, 0, length)
    total = out.op("Add", total, places)
    if node.has(1):
        total = out.op("Add", total, out.op("Gather", node.input(4), node.input(1), axis=0))
    dtype = node.dtype(2)
    centred = out.op("Sub", total, out.reduce("ReduceMean", total, [2]))
    variance = out.reduce("ReduceMean", out.op("Mul", centred, centred), [2])
    spread = out.op("Sqrt", out.op("Add", variance, _epsilon(node, out, dtype)))
    scaled = out.op("Div", centred, spread)
    out.output(out.op("Add", out.op("Mul", scaled, node.input(5)), node.input(6)))
    if node.has(7):  # how many positions of each row count
        out.output(out.reduce("ReduceSum", node.input(7), [1], keepdims=False), 1)
    else:
        out.output(out.const(np.zeros(batch), "int32"), 1)
    out.output(total, 2)
    return True


# -- products ----------------------------------------------------------------------------------


def _fused_matmul(node: NodeView, out: Emitter) -> bool:
    if _attr(node, "transBatchA") or _attr(node, "transBatchB"):
        return False
    sides = []
    for index, flag in enumerate(("transA", "transB")):
        rank = len(node.shape(index))
        perm = [*range(rank - 2), rank - 1, rank - 2]
        name = node.input(index)
        sides.append(out.transpose(name, perm) if _attr(node, flag) and rank > 1 else name)
    product = out.op("MatMul", *sides)
    alpha = _attr(node, "alpha")
    if alpha != 1:
        product = out.op("Mul", product, out.const(alpha, node.dtype(0)))
    out.output(product)
    return True


def _matmul_nbits(node: NodeView, out: Emitter) -> bool:
    """Blocks of packed integers as a float matrix: `(q - zero) * scale`, exactly."""
    packed, scales = node.const(1), node.const(2)
    zeros = node.const(3)
    if packed is None or scales is None or (node.has(3) and zeros is None):
        return False
    if node.has(4) or _attr(node, "weight_prepacked"):  # a permutation of groups; a GPU's layout
        return False
    weight = dequantise_blocks(
        packed,
        scales,
        zeros,
        columns=node.attr("N"),
        rows=node.attr("K"),
        bits=_attr(node, "bits"),
        block=node.attr("block_size"),
    )
    # [N, K] -> [K, N]
    product = out.op("MatMul", node.input(0), out.const(weight.T, node.dtype(0)))
    out.output(out.op("Add", product, node.input(5)) if node.has(5) else product)
    return True


def dequantise_blocks(
    packed: np.ndarray,
    scales: np.ndarray,
    zeros: np.ndarray | None,
    *,
    columns: int,
    rows: int,
    bits: int,
    block: int,
) -> np.ndarray:
    """Weights [columns, rows] from `MatMulNBits`' storage, lowest bits first.

    Requires: `packed` [columns, blocks, block * bits / 8] uint8; `scales` [columns, blocks];
    `zeros` packed like the weights per row of blocks, or floating point, or absent (the middle).
    """
    blocks = -(-rows // block)
    packed, scales = packed.reshape(columns, -1), scales.reshape(columns, blocks, 1)
    zeros = None if zeros is None else zeros.reshape(columns, -1)
    weight = np.empty((columns, rows), np.float32)
    step = max(1, _AT_A_TIME // max(1, blocks * block))
    for first in range(0, columns, step):  # what is between would be several times the weight
        part = slice(first, first + step)
        quants = unpack_bits(packed[part], bits)[:, : blocks * block]
        values = quants.reshape(-1, blocks, block).astype(np.float32)
        if zeros is None:
            values -= np.float32(1 << (bits - 1))
        elif zeros.dtype == np.uint8:
            values -= unpack_bits(zeros[part], bits)[:, :blocks, None].astype(np.float32)
        else:
            values -= zeros[part].reshape(-1, blocks, 1).astype(np.float32)
        values *= scales[part].astype(np.float32)
        weight[part] = values.reshape(len(values), -1)[:, :rows]
    return weight


def unpack_bits(array: np.ndarray, bits: int) -> np.ndarray:
    """The `bits`-wide numbers in each row of bytes."""
    if bits == 8:
        return array
    per_byte = 8 // bits
    shifts = np.arange(per_byte, dtype=np.uint8) * bits
    numbers = (array[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return numbers.reshape(array.shape[0], -1)


# -- attention ---------------------------------------------------------------------------------


def _rotary_embedding(node: NodeView, out: Emitter) -> bool:
    """Inputs: x [B, S, H*D] or [B, H, S, D], positions [1] or [B, S], cos and sin [max, R/2]."""
    shape = node.shape(0)
    heads = _attr(node, "num_heads")
    partial = _attr(node, "rotary_embedding_dim")
    if _attr(node, "interleaved") or _attr(node, "is_packed_batching"):
        return False
    half = node.shape(2)[1]
    if len(shape) == 3:
        batch, length, width = shape
        depth = width // heads if partial else half * 2
        heads = width // depth
        x = out.transpose(out.reshape(node.input(0), [batch, length, heads, depth]), [0, 2, 1, 3])
    else:
        batch, heads, length, depth = shape
        x = node.input(0)
    rotary = partial or depth
    if rotary != 2 * half:
        return False
    positions, rows_batch = node.input(1), batch
    if node.shape(1) != (batch, length):
        rows_batch = 1
        steps = out.const(np.arange(length)[None, :], "int64")
        positions = out.op("Add", out.reshape(positions, [1, 1]), steps)
    angles = []
    for index in (2, 3):
        rows = out.op("Gather", node.input(index), positions, axis=0)  # [B or 1, S, R/2]
        angles.append(out.reshape(rows, [rows_batch, 1, length, half]))
    cos, sin = angles
    first, second = out.slice(x, 3, 0, half), out.slice(x, 3, half, rotary)
    turned = [
        out.op("Sub", out.op("Mul", first, cos), out.op("Mul", second, sin)),
        out.op("Add", out.op("Mul", second, cos), out.op("Mul", first, sin)),
    ]
    if rotary < depth:
        turned.append(out.slice(x, 3, rotary, depth))
    result = out.op("Concat", *turned, axis=3)
    if len(shape) == 3:
        result = out.reshape(out.transpose(result, [0, 2, 1, 3]), list(shape))
    out.output(result)
    return True


def _multi_head_attention(node: NodeView, out: Emitter) -> bool:
    """Separate [B, S, H*D] query, key and value, without a cache or packed inputs."""
    if not node.has(1) or not node.has(2) or any(node.has(i) for i in (6, 7, 8, 9)):
        return False
    if node.has_output(1) or node.has_output(2) or _attr(node, "unidirectional"):
        return False
    if any(len(node.shape(i)) != 3 for i in (0, 1, 2)):
        return False
    heads, dtype = node.attr("num_heads"), node.dtype(0)
    split = []
    begin = 0
    for index in range(3):
        batch, length, width = node.shape(index)
        x = node.input(index)
        if node.has(3):
            x = out.op("Add", x, out.slice(node.input(3), 0, begin, begin + width))
        begin += width
        split.append(
            out.transpose(out.reshape(x, [batch, length, heads, width // heads]), [0, 2, 1, 3])
        )
    query, key, value = split
    depth = node.shape(0)[2] // heads
    scale = _attr(node, "scale") or 1 / math.sqrt(depth)
    scores = out.op("MatMul", query, out.transpose(key, [0, 1, 3, 2]))
    scores = out.op("Mul", scores, out.const(scale, dtype))
    if node.has(4):
        if len(node.shape(4)) != 2:
            return False
        batch, length = node.shape(4)
        mask = out.reshape(node.input(4), [batch, 1, 1, length])
        kept = out.op("Cast", mask, to=1 if dtype == "float32" else 10)
        filler = out.const(_attr(node, "mask_filter_value"), dtype)
        hidden = out.op("Mul", out.op("Sub", out.const(1.0, dtype), kept), filler)
        scores = out.op("Add", scores, hidden)
    if node.has(5):
        scores = out.op("Add", scores, node.input(5))
    mixed = out.op("MatMul", out.op("Softmax", scores, axis=-1), value)
    batch, length, _ = node.shape(0)
    joined = out.reshape(out.transpose(mixed, [0, 2, 1, 3]), [batch, length, node.shape(2)[2]])
    out.output(joined)
    return True


CONTRIB_DECOMPOSITIONS: dict[tuple[str, str], Decomposition] = {
    (MICROSOFT, "Gelu"): _gelu,
    (MICROSOFT, "BiasGelu"): _bias_gelu,
    (MICROSOFT, "FastGelu"): _fast_gelu,
    (MICROSOFT, "QuickGelu"): _quick_gelu,
    # ONNX Runtime registers these two in the standard domain as well.
    ("", "SimplifiedLayerNormalization"): _simplified_layer_norm,
    (MICROSOFT, "SimplifiedLayerNormalization"): _simplified_layer_norm,
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): _skip_simplified_layer_norm,
    (MICROSOFT, "SkipLayerNormalization"): _skip_layer_norm,
    (MICROSOFT, "EmbedLayerNormalization"): _embed_layer_norm,
    (MICROSOFT, "FusedMatMul"): _fused_matmul,
    (MICROSOFT, "MatMulNBits"): _matmul_nbits,
    (MICROSOFT, "RotaryEmbedding"): _rotary_embedding,
    (MICROSOFT, "MultiHeadAttention"): _multi_head_attention,
}
