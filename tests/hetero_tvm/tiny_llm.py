"""Small language models with random weights, as onnxruntime-genai's builder or torch writes them.

ONNX Runtime runs the same file, with its cache growing as usual: `Reference`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from hetero_tvm.frontend.llm_folder import read_llm_folder

MS = "com.microsoft"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyLlm:
    """What the model is like."""

    layers: int = 2
    heads: int = 4
    groups: int = 2
    depth: int = 16
    hidden: int = 64
    inner: int = 48
    vocabulary: int = 64
    context: int = 96
    dtype: str = "float32"  # of weights, caches and logits
    packed: bool = True  # one product for query, key and value
    bias: bool = False  # on query, key and value
    tied: bool = False  # the head is the embedding
    separate_rotary: bool = False  # RotaryEmbedding nodes and an input position_ids
    rotary_scale: float = 1.0  # positions are divided by it
    partial_rotary: float = 1.0  # of each head that is turned
    window: int = -1
    softcap: float = 0.0
    final_softcap: float = 0.0  # on the logits
    prune_head: bool = False  # the file itself keeps the last row only
    decomposed: bool = False  # attention written out, caches joined, as torch's exporter does
    attention_op: str = ""  # decomposed: ONNX's Attention on caches "joined" before it, or by it
    mask: str = "causal"  # decomposed: "causal", "none" or "all", which sees what comes later
    guarded: bool = False  # decomposed: `where(isnan(p), 0, p)` behind the softmax
    attributes: tuple[tuple[str, float], ...] = ()  # more of them, for GroupQueryAttention


class _Graph:
    def __init__(self, spec: TinyLlm, seed: int) -> None:
        self.spec, self.rng = spec, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, *shape: int, scale: float | None = None) -> str:
        scale = shape[0] ** -0.5 if scale is None else scale
        self.const(name, (self.rng.standard_normal(shape) * scale).astype(np.float32))
        return name

    def const(self, name: str, array: np.ndarray) -> str:
        array = np.asarray(array)
        if array.dtype == np.float32:
            array = array.astype(self.spec.dtype)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attrs) -> list[str]:
        names = [f"{kind}_{len(self.nodes)}_{n}" for n in range(outputs)]
        self.nodes.append(
            helper.make_node(kind, list(inputs), names, name=names[0], domain=domain, **attrs)
        )
        return names


def build(spec: TinyLlm, folder: Path, *, seed: int = 0, tokenizer: bool = False) -> Path:
    """Write the model's folder; returns it."""
    g = _Graph(spec, seed)
    q_width, kv_width = spec.heads * spec.depth, spec.groups * spec.depth
    angles = np.arange(spec.context)[:, None] / spec.rotary_scale
    turned = int(spec.depth * spec.partial_rotary)
    angles = angles * 10000.0 ** (-np.arange(turned // 2) * 2 / turned)
    g.const("cos_cache", np.cos(angles).astype(np.float32))
    g.const("sin_cache", np.sin(angles).astype(np.float32))
    table = g.weight("embedding", spec.vocabulary, spec.hidden, scale=1.0)
    (x,) = g.op("Gather", table, "input_ids")
    (total,) = g.op("ReduceSum", "attention_mask", g.const("one", np.array([1])), keepdims=0)
    (less,) = g.op("Sub", total, "one")
    (seqlens,) = g.op("Cast", less, to=TensorProto.INT32)
    (dims,) = g.op("Shape", "attention_mask")
    (length,) = g.op("Gather", dims, g.const("index_1", np.array(1)))
    (total_length,) = g.op("Cast", length, to=TensorProto.INT32)
    mask = _mask(g) if spec.decomposed else ""
    outputs = []
    (normed,) = g.op(
        "SimplifiedLayerNormalization", x, g.weight("norm", spec.hidden, scale=1.0), epsilon=1e-5
    )
    for layer in range(spec.layers):
        if spec.decomposed:
            mixed, presents = _written_out(g, layer, normed, mask)
        else:
            mixed, presents = _attention(g, layer, normed, seqlens, total_length, q_width, kv_width)
        outputs += presents
        (out,) = g.op("MatMul", mixed, g.weight(f"out{layer}", q_width, spec.hidden))
        normed, x = _skip_norm(g, f"mlp_norm{layer}", x, out)
        (gate,) = g.op("MatMul", normed, g.weight(f"gate{layer}", spec.hidden, spec.inner))
        (up,) = g.op("MatMul", normed, g.weight(f"up{layer}", spec.hidden, spec.inner))
        (curve,) = g.op("Sigmoid", gate)
        (silu,) = g.op("Mul", gate, curve)
        (product,) = g.op("Mul", silu, up)
        (down,) = g.op("MatMul", product, g.weight(f"down{layer}", spec.inner, spec.hidden))
        normed, x = _skip_norm(g, f"norm{layer}", x, down)
    _head(g, normed, table)
    proto = _proto(g, outputs)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, folder / "model.onnx")
    config = {
        "model": {"context_length": spec.context, "eos_token_id": 2, "type": "llama"},
    }
    (folder / "genai_config.json").write_text(json.dumps(config))
    if tokenizer:
        (folder / "tokenizer.json").write_text("{}")
    return folder


def _skip_norm(g: _Graph, name: str, x: str, added: str) -> tuple[str, str]:
    found = g.op(
        "SkipSimplifiedLayerNormalization",
        x,
        added,
        g.weight(name, g.spec.hidden, scale=1.0),
        outputs=4,
        domain=MS,
        epsilon=1e-5,
    )
    g.nodes[-1].output[1] = g.nodes[-1].output[2] = ""
    return found[0], found[3]


def _attention(g, layer, x, seqlens, total_length, q_width, kv_width):
    spec = g.spec
    widths = [q_width, kv_width, kv_width]
    if spec.packed:
        parts = g.op("MatMul", x, g.weight(f"qkv{layer}", spec.hidden, sum(widths)))
        if spec.bias:
            parts = g.op("Add", parts[0], g.weight(f"bias{layer}", sum(widths), scale=0.3))
        parts += ["", ""]
    else:
        parts = []
        for name, width in zip("qkv", widths, strict=True):
            (part,) = g.op("MatMul", x, g.weight(f"{name}{layer}", spec.hidden, width))
            if spec.bias:
                (part,) = g.op("Add", part, g.weight(f"{name}_bias{layer}", width, scale=0.3))
            parts.append(part)
    tables = ["cos_cache", "sin_cache"]
    if spec.separate_rotary:
        for index, heads in ((0, spec.heads), (1, spec.groups)):
            (parts[index],) = g.op(
                "RotaryEmbedding",
                parts[index],
                "position_ids",
                *tables,
                domain=MS,
                num_heads=heads,
                rotary_embedding_dim=int(spec.depth * spec.partial_rotary)
                if spec.partial_rotary < 1
                else 0,
            )
        tables = ["", ""]
    past = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
    names = g.op(
        "GroupQueryAttention",
        *parts,
        *past,
        seqlens,
        total_length,
        *tables,
        outputs=3,
        domain=MS,
        num_heads=spec.heads,
        kv_num_heads=spec.groups,
        do_rotary=int(not spec.separate_rotary),
        local_window_size=spec.window,
        softcap=spec.softcap,
        **dict(spec.attributes),
    )
    for index, kind in ((1, "key"), (2, "value")):
        g.nodes[-1].output[index] = f"present.{layer}.{kind}"
    return names[0], list(g.nodes[-1].output[1:])


def _mask(g: _Graph) -> str:
    """What is added to the scores [1, 1, S, C]; the last S of C positions are the new ones."""
    spec = g.spec
    zero, one = g.const("zero_i", np.array(0)), g.const("one_i", np.array(1))
    (dims,) = g.op("Shape", "attention_mask")
    (total,) = g.op("Gather", dims, one)
    (dims,) = g.op("Shape", "input_ids")
    (length,) = g.op("Gather", dims, one)
    (past,) = g.op("Sub", total, length)
    (j,) = g.op("Range", zero, total, one)
    (place,) = g.op("Range", past, total, one)
    (place,) = g.op("Unsqueeze", place, g.const("axis_1", np.array([1])))
    (seen,) = g.op("LessOrEqual", j, place)
    if spec.mask == "all":
        (seen,) = g.op("Or", seen, g.const("true", np.array(True)))
    if spec.window > 0:
        (oldest,) = g.op("Sub", place, g.const("window", np.array(spec.window)))
        (near,) = g.op("Greater", j, oldest)
        (seen,) = g.op("And", seen, near)
    (real,) = g.op("Cast", "attention_mask", to=TensorProto.BOOL)
    (seen,) = g.op("And", seen, real)
    nothing = g.const("nothing", np.array(0, np.float32))
    (mask,) = g.op("Where", seen, nothing, g.const("hidden", np.array(-np.inf, np.float32)))
    (mask,) = g.op("Unsqueeze", mask, g.const("axes_01", np.array([0, 1])))
    return mask


def _written_out(g: _Graph, layer: int, x: str, mask: str) -> tuple[str, list[str]]:
    spec, parts = g.spec, []
    for name, heads in zip("qkv", (spec.heads, spec.groups, spec.groups), strict=True):
        (part,) = g.op("MatMul", x, g.weight(f"{name}{layer}", spec.hidden, heads * spec.depth))
        shape = g.const(f"{name}_shape{layer}", np.array([0, 0, heads, spec.depth]))
        (part,) = g.op("Reshape", part, shape)
        (part,) = g.op("Transpose", part, perm=[0, 2, 1, 3])
        parts.append(part if name == "v" else _rotated(g, part, f"{name}{layer}"))
    presents = [f"present.{layer}.{kind}" for kind in ("key", "value")]
    if spec.attention_op:
        return _by_attention_op(g, layer, parts, presents, mask)
    repeated = []
    for new, present in zip(parts[1:], presents, strict=True):
        g.op("Concat", present.replace("present", "past_key_values"), new, axis=2)
        g.nodes[-1].output[0] = present
        repeated.append(_repeated(g, present, layer))
    (keys,) = g.op("Transpose", repeated[0], perm=[0, 1, 3, 2])
    (scores,) = g.op("MatMul", parts[0], keys)
    root = np.array(spec.depth**0.5, np.float32)
    (scores,) = g.op("Div", scores, g.const(f"root{layer}", root))
    if spec.softcap:
        cap = g.const(f"cap{layer}", np.array(spec.softcap, np.float32))
        (scores,) = g.op("Div", scores, cap)
        (scores,) = g.op("Tanh", scores)
        (scores,) = g.op("Mul", scores, cap)
    if spec.mask != "none":
        (scores,) = g.op("Add", scores, mask)
    (weights,) = g.op("Softmax", scores, axis=-1)
    if spec.guarded:
        (lost,) = g.op("IsNaN", weights)
        zero = g.const(f"zero{layer}", np.array(0, np.float32))
        (weights,) = g.op("Where", lost, zero, weights)
    (mixed,) = g.op("MatMul", weights, repeated[1])
    (mixed,) = g.op("Transpose", mixed, perm=[0, 2, 1, 3])
    shape = g.const(f"joined{layer}", np.array([0, 0, spec.heads * spec.depth]))
    (mixed,) = g.op("Reshape", mixed, shape)
    return mixed, presents


def _by_attention_op(
    g: _Graph, layer: int, parts: list[str], presents: list[str], mask: str
) -> tuple[str, list[str]]:
    """The operator of opset 23; like torch's exporter it is given joined caches, or joins them."""
    spec, scale = g.spec, g.spec.depth**-0.5
    if spec.attention_op == "joined":
        for new, present in zip(parts[1:], presents, strict=True):
            g.op("Concat", present.replace("present", "past_key_values"), new, axis=2)
            g.nodes[-1].output[0] = present
        (mixed,) = g.op("Attention", parts[0], *presents, mask, scale=scale)
    else:
        pasts = [present.replace("present", "past_key_values") for present in presents]
        mixed, *_ = g.op("Attention", *parts, mask, *pasts, outputs=3, scale=scale)
        g.nodes[-1].output[1:] = presents
    (mixed,) = g.op("Transpose", mixed, perm=[0, 2, 1, 3])
    shape = g.const(f"joined{layer}", np.array([0, 0, spec.heads * spec.depth]))
    return g.op("Reshape", mixed, shape)[0], presents


def _rotated(g: _Graph, x: str, name: str) -> str:
    """`x * cos + turned(x) * sin` with tables of half the depth, each used twice."""
    half = g.spec.depth // 2
    tables = []
    for table in ("cos_cache", "sin_cache"):
        (rows,) = g.op("Gather", table, "position_ids")
        (rows,) = g.op("Concat", rows, rows, axis=-1)
        (rows,) = g.op("Unsqueeze", rows, "one")
        tables.append(rows)
    bounds = [g.const(f"{name}_{n}", np.array([n])) for n in (0, half, 2 * half)]
    axis = g.const(f"{name}_axis", np.array([3]))
    (first,) = g.op("Slice", x, bounds[0], bounds[1], axis)
    (second,) = g.op("Slice", x, bounds[1], bounds[2], axis)
    (second,) = g.op("Neg", second)
    (turned,) = g.op("Concat", second, first, axis=-1)
    (plain,) = g.op("Mul", x, tables[0])
    (turned,) = g.op("Mul", turned, tables[1])
    return g.op("Add", plain, turned)[0]


def _repeated(g: _Graph, cache: str, layer: int) -> str:
    """Every key head once for each of its query heads."""
    spec = g.spec
    if spec.heads == spec.groups:
        return cache
    name = f"{cache}_repeat"
    (wide,) = g.op("Unsqueeze", cache, g.const(f"{name}_axis", np.array([2])))
    (dims,) = g.op("Shape", cache)
    parts = []
    for begin, end in ((0, 2), (2, 4)):
        bounds = [g.const(f"{name}_{begin}_{n}", np.array([n])) for n in (begin, end)]
        parts += g.op("Slice", dims, *bounds)
    times = g.const(f"{name}_times", np.array([spec.heads // spec.groups]))
    (shape,) = g.op("Concat", parts[0], times, parts[1], axis=0)
    (wide,) = g.op("Expand", wide, shape)
    flat = g.const(f"{name}_flat", np.array([0, spec.heads, -1, spec.depth]))
    return g.op("Reshape", wide, flat)[0]


def _head(g: _Graph, normed: str, table: str) -> None:
    spec = g.spec
    if spec.prune_head:
        (row,) = g.op("Gather", normed, g.const("last", np.array(-1)), axis=1)
        (normed,) = g.op("Unsqueeze", row, "one")
    if spec.tied:
        (weight,) = g.op("Transpose", table, perm=[1, 0])
    else:
        weight = g.weight("head", spec.hidden, spec.vocabulary)
    (logits,) = g.op("MatMul", normed, weight)
    if spec.final_softcap:
        cap = g.const("cap", np.array(spec.final_softcap, np.float32))
        (logits,) = g.op("Div", logits, cap)
        (logits,) = g.op("Tanh", logits)
        (logits,) = g.op("Mul", logits, cap)
    g.nodes[-1].output[0] = "logits"


def _proto(g: _Graph, presents: list[str]) -> onnx.ModelProto:
    spec, info = g.spec, helper.make_tensor_value_info
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    cache = ["batch", spec.groups, "past", spec.depth]
    inputs = [info("input_ids", TensorProto.INT64, ["batch", "sequence"])]
    inputs.append(info("attention_mask", TensorProto.INT64, ["batch", "total"]))
    if spec.separate_rotary or spec.decomposed:
        inputs.append(info("position_ids", TensorProto.INT64, ["batch", "sequence"]))
    for name in presents:
        past = name.replace("present", "past_key_values")
        inputs.append(info(past, kind, cache))
    outputs = [info("logits", kind, ["batch", None, spec.vocabulary])]
    cache = ["batch", spec.groups, "total", spec.depth]
    outputs += [info(name, kind, cache) for name in presents]
    graph = helper.make_graph(g.nodes, "tiny", inputs, outputs, initializer=g.weights)
    opsets = [helper.make_opsetid("", 23 if spec.attention_op else 20), helper.make_opsetid(MS, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


class Reference:
    """ONNX Runtime on the same file, with the cache that it returns itself."""

    def __init__(self, model: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.past = {
            cache.name: np.zeros((1, cache.heads, cache.window_rows, cache.depth), cache.dtype)
            for cache in read_llm_folder(model.parent).caches
        }
        self.length = 0

    def step(self, tokens: list[int]) -> np.ndarray:
        """Append tokens; the last one's logits."""
        feed = {"input_ids": np.array([tokens], np.int64), **self.past}
        total = self.length + len(tokens)
        feed["attention_mask"] = np.ones((1, total), np.int64)
        if "position_ids" in self.inputs:
            feed["position_ids"] = np.arange(self.length, total, dtype=np.int64)[None]
        found = dict(zip(self.outputs, self.session.run(None, feed), strict=True))
        self.past = {name: found[name.replace("past_key_values", "present")] for name in self.past}
        self.length = total
        return found["logits"][0, -1]

    def greedy(self, tokens: list[int], count: int) -> list[int]:
        """The most likely continuation."""
        found: list[int] = []
        logits = self.step(tokens)
        while len(found) < count:
            found.append(int(logits.argmax()))
            if len(found) < count:
                logits = self.step(found[-1:])
        return found
