"""One step of a language model as a function of fixed shapes: so many new tokens on a cache.

    main(input_ids [1, S], hetero_past [1], hetero_last [1], cache .. [1, heads, C, depth])
        -> logits [1, 1, vocabulary] of the row `hetero_last`

The caches are inputs that the function writes: rows `hetero_past` .. of each. What the file says
about attention masks, positions and lengths is replaced by what they mean for one sequence
without padding; `hetero_past` is the one number that they all follow from.

Only one row goes through the head, whatever the file does: with S rows of which the last ones only
fill the chunk up, the row that counts is `hetero_last`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from tvm import IRModule, relax

from hetero_tvm.errors import NotALanguageModel
from hetero_tvm.frontend import converters
from hetero_tvm.frontend.canonicalise import Pass, canonicalise
from hetero_tvm.frontend.cpu_run import run_on_cpu
from hetero_tvm.frontend.decompose import DECOMPOSITIONS
from hetero_tvm.frontend.four_bit_weights import four_bit_weights
from hetero_tvm.frontend.input_specs import fix_input_shapes
from hetero_tvm.frontend.llm_folder import LlmFolder
from hetero_tvm.frontend.llm_nodes import LLM_DECOMPOSITIONS, PAST
from hetero_tvm.frontend.llm_positions import check_no_choice_by_length, set_positions
from hetero_tvm.frontend.model_import import ImportedModel
from hetero_tvm.frontend.onnx_import import to_relax
from hetero_tvm.frontend.random_inputs import InputRange
from hetero_tvm.frontend.read_model import RawModel, read_model
from hetero_tvm.frontend.shape_folding import fold_model
from hetero_tvm.frontend.tensor_spec import TensorSpec
from relay_passes.fold_reshapes import FoldReshapes
from relay_passes.fuse_attention import FuseAttention, MaskValues, NotCausal
from relay_passes.program import PlacementError
from relay_passes.rewrite_bindings import drop_unread_params, only_values
from relay_passes.update_kv_in_place import UpdateKvInPlace

LAST = "hetero_last"  # int32 [1]: the row whose logits are wanted
IDS, LOGITS = "input_ids", "logits"
_MASK = "attention_mask"
_GROUPED = "GroupQueryAttention"
# Between the row that is picked and the logits: whatever treats every row alike.
_HEAD_OPS = frozenset(
    "MatMul MatMulNBits Gemm Add Sub Mul Div Tanh Cast Identity QuickGelu".split()
)


class StepImporter:
    """Imports the steps of one model; its file is hashed, and its weights are mapped, once."""

    def __init__(self, folder: LlmFolder) -> None:
        """`folder`: the model."""
        self.folder = folder
        self._weights: RawModel | None = None  # without its graph

    def step(self, rows: int, capacity: int) -> ImportedModel:
        """The model as a step of `rows` tokens on caches of `capacity` positions.

        Raises:
            BadInput: as `import_model`; also a form of attention that has no rule.
        """
        return _import_step(self._read(), self.folder, rows, capacity)

    @property
    def sha256(self) -> str:
        """Of the model's files."""
        return (self._weights or self._read()).sha256

    def _read(self) -> RawModel:
        raw = read_model(self.folder.model, mapped=True, known=self._weights)
        self._weights = replace(raw, proto=onnx.ModelProto())
        return raw


def _import_step(raw: RawModel, folder: LlmFolder, rows: int, capacity: int) -> ImportedModel:
    grouped = any(node.op_type == _GROUPED for node in raw.proto.graph.node)
    # Joined caches: what is joined with S new rows to the whole cache is that much shorter.
    past = capacity if grouped else capacity - rows
    proto, shapes = _step_graph(raw, folder, rows, capacity, past)
    inputs = fix_input_shapes(proto, shapes)
    four_bit = four_bit_weights(proto, raw.mapped)
    rules = {**DECOMPOSITIONS, **LLM_DECOMPOSITIONS}
    folded = fold_model(proto, inputs, rules, converters.is_importable, raw.mapped)
    sha256 = raw.sha256
    del proto
    more: list[Pass] = []
    if not grouped:
        names = [_identifier(cache.name) for cache in folder.caches]
        in_place = UpdateKvInPlace(names, PAST)
        more = [in_place, FuseAttention(PAST, _mask_values(rows, capacity)), FoldReshapes()]
    try:
        imported = canonicalise(to_relax(folded), more)
    except PlacementError as error:
        raise NotALanguageModel(f"{folder.model}: {error}") from error
    imported = replace(imported, mod=drop_unread_params(imported.mod))
    used = _border(imported.mod, folded.inputs)
    _check_border(folder, used)
    return ImportedModel(
        mod=imported.mod,
        inputs=used,
        outputs=folded.outputs,
        onnx_model=onnx.ModelProto(),
        ranges=_ranges(used, folded.outputs[0].shape[-1], rows, capacity),
        sha256=sha256,
        node_of=imported.node_of,
        errors=(),
        four_bit=four_bit,
    )


def _identifier(name: str) -> str:
    """What the import calls the parameter of an ONNX input."""
    return re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")


def _border(mod: IRModule, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The parameters of `main` by their ONNX names; caches as long as they have become."""
    names = {_identifier(spec.name): spec for spec in inputs}
    return tuple(
        replace(names[param.name], shape=tuple(int(dim) for dim in param.ty.shape))
        for param in mod["main"].params
    )


def _mask_values(rows: int, capacity: int) -> MaskValues:
    """Masks of a step whose rows end the cache, with nothing hidden by the caller."""
    known: dict[str, np.ndarray] = {
        _MASK: np.ones((1, capacity), np.int64),
        PAST: np.array([capacity - rows], np.int32),
        LAST: np.array([rows - 1], np.int32),
    }

    def values(mod: IRModule, masks: Sequence[relax.Var]) -> list[np.ndarray]:
        inner = only_values(mod, masks)
        names = [param.name for param in inner["main"].params]
        others = [name for name in names if name not in known]
        if others:
            raise NotCausal(f"a mask that follows from {', '.join(others)}")
        types = {param.name: str(param.ty.dtype) for param in inner["main"].params}
        return run_on_cpu(inner, names, {n: known[n].astype(types[n]) for n in names})

    return values


def _check_border(folder: LlmFolder, used: tuple[TensorSpec, ...]) -> None:
    names = {spec.name for spec in used}
    if IDS not in names:
        raise NotALanguageModel(f"{folder.model}: its logits do not follow from an input {IDS}")
    if _MASK in names:
        raise NotALanguageModel(
            f"{folder.model}: {_MASK} takes part in a way that is not understood; expected a "
            "causal mask over one sequence"
        )
    for cache in folder.caches:
        if cache.name not in names:
            raise NotALanguageModel(f"{folder.model}: {cache.name} takes no part in the logits")


def _ranges(
    used: tuple[TensorSpec, ...], vocabulary: int, rows: int, capacity: int
) -> tuple[InputRange, ...]:
    """What random inputs are drawn from: any tokens, behind a cache that is half full."""
    fixed = {PAST: (capacity - rows) // 2, LAST: rows - 1}
    found = []
    for spec in used:
        base = InputRange(name=spec.name, dtype=spec.dtype, shape=spec.shape, kind="normal")
        if spec.name == IDS:
            base = replace(base, kind="index", size=vocabulary)
        elif spec.name in fixed:
            base = replace(base, kind="choice", values=(fixed[spec.name],))
        found.append(base)
    return tuple(found)


# --- the file as a step --------------------------------------------------------------------------


def _step_graph(
    raw: RawModel, folder: LlmFolder, rows: int, capacity: int, past: int
) -> tuple[onnx.ModelProto, dict[str, tuple[int, ...]]]:
    """The model with our border, and the shapes of its inputs."""
    proto, graph = raw.proto, raw.proto.graph
    shapes: dict[str, tuple[int, ...]] = {IDS: (1, rows), _MASK: (1, capacity)}
    for cache in folder.caches:
        shapes[cache.name] = (1, cache.heads, past, cache.depth)
    check_no_choice_by_length(graph, capacity)
    _add_scalars(graph)
    set_positions(graph, [cache.name for cache in folder.caches], rows, capacity)
    _keep_logits(folder.model, graph)
    _pick_row(folder.model, graph)
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name for value in graph.input} - weights
    foreign = inputs - shapes.keys() - {PAST, LAST}
    if foreign or IDS not in inputs:
        raise NotALanguageModel(
            f"{folder.model}: not a language model on token ids: expected the input {IDS}, "
            f"found {', '.join(sorted(foreign)) or 'caches alone'}"
        )
    return proto, {name: shape for name, shape in shapes.items() if name in inputs}


def _add_scalars(graph: onnx.GraphProto) -> None:
    graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.INT32, [1]) for name in (PAST, LAST)
    )


def _keep_logits(model: Path, graph: onnx.GraphProto) -> None:
    """Caches are written in place: the logits are the only output."""
    logits = [value for value in graph.output if value.name == LOGITS]
    if not logits:
        raise NotALanguageModel(f"{model}: no output named {LOGITS}")
    del graph.output[:]
    graph.output.extend(logits)
    graph.output[0].type.tensor_type.ClearField("shape")


def _pick_row(model: Path, graph: onnx.GraphProto) -> None:
    """Let only row `LAST` of [1, S, hidden] reach the head.

    The head is what lies behind the last node that mixes rows or channels other than by a product:
    from the logits upwards through `_HEAD_OPS`. A row that the file picks itself, the last, gives
    way.
    """
    makers = {name: node for node in graph.node for name in node.output if name}
    weights = {tensor.name for tensor in graph.initializer}
    for node in graph.node:  # constants, and what is made of nothing else: a transposed embedding
        if all(name in weights for name in node.input if name):
            weights.update(node.output)
    top, node = None, makers.get(LOGITS)
    while node is not None and node.op_type in _HEAD_OPS:
        inner = [name for name in node.input if name in makers and name not in weights]
        if len(inner) != 1 or inner[0] != node.input[0]:
            break
        top, node = node, makers[inner[0]]
        if top.op_type in ("MatMul", "MatMulNBits", "Gemm"):
            break
    if top is None or node is None or top.op_type not in ("MatMul", "MatMulNBits", "Gemm"):
        raise NotALanguageModel(f"{model}: the product that makes the {LOGITS} was not found")
    source = top.input[0]
    if node.op_type == "Unsqueeze" and node.input[0] in makers:
        inner_node = makers[node.input[0]]
        if inner_node.op_type == "Gather" and _axis(inner_node) == 1:
            source = inner_node.input[0]
    elif node.op_type in ("Gather", "Slice") and node.op_type == "Gather" and _axis(node) == 1:
        source = node.input[0]
    picked = f"{LOGITS}/row"
    gather = helper.make_node("Gather", [source, LAST], [picked], name=picked, axis=1)
    top.input[0] = picked
    position = list(graph.node).index(top)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*rest[:position], gather, *rest[position:]])


def _axis(node: onnx.NodeProto) -> int:
    return next((int(attr.i) for attr in node.attribute if attr.name == "axis"), 0)
