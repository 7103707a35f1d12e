"""A float32 program in which any stretch can be run as an NPU does that keeps values in float16.

Each operator has a switch: when it is on, its weights and its result are rounded to float16 (the
arithmetic stays in float32, as in the NPU's accumulators; compared on Qualcomm's simulator the two
differ by less than the rounding itself). ONNX Runtime's CPU provider runs it. The program is cut
into segments: those without a switch on run at full speed, and those before the first one are not
run again.

Requires: a function of static straight-line code whose operators all have an ONNX form.
Ensures:  with every switch off, the results are float32's.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from tvm import relax
from tvm.ir import GenericConst

from relay_passes.half_emulator_ops import EMULATED, emulated
from relay_passes.npu_onnx.graph import FLOAT16_MAX, OnnxGraph, Operand, dtype_of
from relay_passes.npu_onnx.model import emit_value, finish_model, value_info
from relay_passes.op_work import VIEWS, op_name, tensor_args

_SEGMENTS = 24
_NUDGES = (1 + 2.0**-10, 1 - 2.0**-10)  # by a step of float16 at most, either way
_JUMP = 0.1  # far more than a few nudges add up to: a number crossed a border
_PRODUCTS = frozenset(
    f"relax.{name}" for name in ("matmul", "nn.conv1d", "nn.conv2d", "nn.conv2d_transpose")
)
_MOVES = VIEWS | frozenset(  # their results are values that were rounded before
    f"relax.{name}"
    for name in """
    broadcast_to concat max maximum min minimum nn.max_pool2d nn.relu permute_dims split stack
    strided_slice take where
    """.split()
)
_Values = dict[relax.Var, np.ndarray]


def bindings_of(func: relax.Function) -> list[relax.VarBinding]:
    """All bindings in order."""
    return [binding for block in func.body.blocks for binding in block.bindings]


def missing_ops(func: relax.Function) -> set[str]:
    """Operators (or TIR functions) that cannot be emulated."""
    calls = [b.value for b in bindings_of(func) if isinstance(b.value, relax.Call)]
    return {op_name(call) for call in calls if not emulated(call)}


class HalfEmulator:
    """`func` on sets of inputs; `error` says what float16 does to its outputs."""

    def __init__(
        self,
        func: relax.Function,
        names: Sequence[str],
        inputs: Sequence[Mapping[str, np.ndarray]],
        *,
        strict: bool = False,
    ) -> None:
        """`names`: the bindings that have a switch, in order; each of `inputs` by parameter name.

        The sets of inputs share the sessions, which hold the weights. `strict`: whatever an
        operator reads is rounded, and outputs of whole numbers and booleans count, too; one run
        alone must also not make anything jump when its results are a float16 step larger or
        smaller, since an NPU does not round as a CPU does. Both are infinite errors.
        """
        self._strict = strict
        index_of = {name: index for index, name in enumerate(names)}
        self._outputs = _variables(func.body.body, bindings_of(func))
        self._segments = _cut(func, index_of, self._outputs, strict)
        self._before: list[list[_Values]] = []  # per set: what each segment finds, in float32
        self._exact: list[_Values] = []
        for row in inputs:
            values: _Values = {param: np.asarray(row[param.name]) for param in func.params}
            self._before.append([])
            for segment in self._segments:
                self._before[-1].append(values)
                values = segment.run(values, frozenset())
            self._exact.append(values)
        for segment in self._segments:
            segment.prepare()

    def error(self, runs: Sequence[range]) -> float:
        """The worst output's relative change (norm) when the switches in `runs` are on."""
        on = frozenset(index for run in runs for index in run)
        touched = [i for i, segment in enumerate(self._segments) if segment.switches & on]
        if not touched:
            return 0.0

        def after(row: int, nudge: float = 1.0) -> _Values:
            values = self._before[row][touched[0]]
            for segment in self._segments[touched[0] :]:
                values = segment.run(values, on, nudge)
            return values

        def change(row: int) -> float:
            found = worst(row, after(row))
            nudges = _NUDGES if self._strict and len(runs) == 1 else ()
            jumped = any(worst(row, after(row, nudge)) > _JUMP for nudge in nudges)
            return math.inf if jumped else found

        def worst(row: int, values: _Values) -> float:
            changes = (_change(self._exact[row][v], values[v], self._strict) for v in self._outputs)
            return max(changes, default=0.0)

        with ThreadPoolExecutor(len(self._exact)) as pool:
            return max(pool.map(change, range(len(self._exact))), default=0.0)


def _change(exact: np.ndarray, other: np.ndarray, whole: bool) -> float:
    if exact.dtype.kind != "f":
        return math.inf if whole and not np.array_equal(exact, other) else 0.0
    size = float(np.linalg.norm(exact.astype(np.float64))) or 1.0
    with np.errstate(invalid="ignore"):  # infinity less infinity is none of ours
        change = float(np.linalg.norm(exact.astype(np.float64) - other)) / size
    return change if math.isfinite(change) else math.inf


@dataclasses.dataclass
class _Segment:
    """A stretch of bindings, as it is and with switches; sessions are made when first needed."""

    bindings: list[relax.VarBinding]
    index_of: Mapping[str, int]
    inputs: list[relax.Var]
    outputs: list[relax.Var]
    live: set[relax.Var]  # what later segments, or the caller, read of all that is known by now
    fused: set[relax.Var]
    strict: bool
    sessions: dict[bool, onnxruntime.InferenceSession] = dataclasses.field(default_factory=dict)

    @property
    def switches(self) -> frozenset[int]:
        """Numbers of the switches in this segment."""
        found = (self.index_of.get(binding.var.name) for binding in self.bindings)
        return frozenset(index for index in found if index is not None)

    def run(self, values: _Values, on: frozenset[int], nudge: float = 1.0) -> _Values:
        """What is live after this segment, given what was before it.

        `nudge`: what results are multiplied by before they are rounded.
        """
        switched = bool(self.switches & on)
        if switched not in self.sessions:
            self.prepare(switched)
        feeds = {f"in{i}": values[var] for i, var in enumerate(self.inputs)}
        for index in self.switches if switched else ():
            feeds[f"switch{index}"] = np.asarray(index in on)
        if switched and self.strict:
            feeds["nudge"] = np.asarray(nudge, "float32")
        results = self.sessions[switched].run(None, feeds)
        known = values | dict(zip(self.outputs, results, strict=True))
        return {var: value for var, value in known.items() if var in self.live}

    def prepare(self, switched: bool = True) -> None:
        """Make the session now, before several threads run it."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # one set of inputs per core
        # Many small sessions: an arena each, and weights packed twice, would be most of the memory.
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.disable_prepacking", "1")
        self.sessions[switched] = onnxruntime.InferenceSession(
            self._model(switched).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def _model(self, switched: bool) -> onnx.ModelProto:
        graph = _SwitchedGraph(half_inside=False)
        names: dict[relax.Var, Operand] = {var: f"in{i}" for i, var in enumerate(self.inputs)}
        inputs = [value_info(f"in{i}", var.ty) for i, var in enumerate(self.inputs)]
        if switched and self.strict:
            inputs.append(helper.make_tensor_value_info("nudge", TensorProto.FLOAT, []))
        limits = (graph.scalar(-FLOAT16_MAX, "float32"), graph.scalar(FLOAT16_MAX, "float32"))
        for binding in self.bindings:
            index = self.index_of.get(binding.var.name) if switched else None
            if index is not None:
                inputs.append(helper.make_tensor_value_info(f"switch{index}", TensorProto.BOOL, []))
            if index is None:
                names[binding.var] = emit_value(graph, binding.value, names, EMULATED)
                continue
            read = dict(names)
            for var in _reads(binding.value) if self.strict else ():
                if _is_rounded(var, self.strict):
                    switch = f"switch{index}"
                    read[var] = _round(graph, str(names[var]), switch, limits, dtype_of(var))
            moved = binding.value.op.name in _MOVES and not _has_constant(binding.value)
            if moved and not self.strict:
                names[binding.var] = emit_value(graph, binding.value, read)
                continue
            graph.switch = f"switch{index}"
            result = emit_value(graph, binding.value, read)
            if _is_rounded(binding.var, self.strict) and binding.var not in self.fused:
                nudge = "nudge" if self.strict else ""
                result = _round(graph, result, graph.switch, limits, dtype_of(binding.var), nudge)
            graph.switch = None
            names[binding.var] = result
        outputs = []
        for i, var in enumerate(self.outputs):
            graph.nodes.append(helper.make_node("Identity", [names[var]], [f"out{i}"]))
            outputs.append(value_info(f"out{i}", var.ty))
        return finish_model(graph, inputs, outputs)


class _SwitchedGraph(OnnxGraph):
    """While `switch` is set, weights that are written are rounded with it."""

    switch: str | None = None

    def constant(self, value: np.ndarray) -> str:
        name = super().constant(value)
        if self.switch is None or value.dtype != np.float32 or value.size == 1:
            return name
        half = np.clip(value, -FLOAT16_MAX, FLOAT16_MAX).astype(np.float16).astype(np.float32)
        return self.node("Where", self.switch, super().constant(half), name)


def _round(
    graph: OnnxGraph, name: str, switch: str, limits: tuple[str, str], dtype: str, nudge: str = ""
) -> str:
    """`name`, or where the switch is on its float16 value in its own type again.

    `nudge`: the number that it is multiplied by before.
    """
    value = name if dtype == "float32" else graph.node("Cast", name, to=TensorProto.FLOAT)
    if nudge:
        value = graph.node("Mul", value, nudge)
    half = graph.node("Cast", graph.node("Clip", value, *limits), to=TensorProto.FLOAT16)
    if dtype == "float32":
        half = graph.node("Cast", half, to=TensorProto.FLOAT)
    return graph.node("Where", switch, half, name)


def _cut(
    func: relax.Function,
    index_of: Mapping[str, int],
    results: Sequence[relax.Var],
    strict: bool,
) -> list[_Segment]:
    """`func` in up to `_SEGMENTS` segments of about equal length."""
    bindings = bindings_of(func)
    last_read = {var: len(bindings) for var in results}
    for place, binding in reversed(list(enumerate(bindings))):
        for var in _reads(binding.value):
            last_read.setdefault(var, place)
    fused = _biased_products(bindings)
    known: list[relax.Var] = list(func.params)
    segments = []
    for begin, end in _edges(bindings, last_read):
        inside = bindings[begin:end]
        made = [binding.var for binding in inside]
        read = {var for binding in inside for var in _reads(binding.value)}
        live = {var for var in (*known, *made) if last_read.get(var, -1) >= end}
        inputs = [var for var in known if var in read]
        outputs = [var for var in made if var in live]
        segments.append(_Segment(inside, index_of, inputs, outputs, live, fused, strict))
        known = [var for var in (*known, *made) if var in live]
    return segments


def _edges(
    bindings: Sequence[relax.VarBinding], last_read: Mapping[relax.Var, int]
) -> list[tuple[int, int]]:
    """Where to cut: never between a tuple and its last reader, as only tensors cross."""
    edges = [0]
    open_until = 0  # the last reader of any tuple so far
    for place, binding in enumerate(bindings):
        if isinstance(binding.var.ty, relax.TupleType):
            open_until = max(open_until, last_read.get(binding.var, place))
        wanted = len(bindings) * len(edges) / _SEGMENTS
        if place + 1 >= wanted and place >= open_until:
            edges.append(place + 1)
    if edges[-1] != len(bindings):
        edges.append(len(bindings))
    return list(itertools.pairwise(edges))


def _biased_products(bindings: Sequence[relax.VarBinding]) -> set[relax.Var]:
    """Products that only the addition of a constant reads: one operator for an NPU, so that only
    the sum is rounded.
    """
    readers = Counter(var for binding in bindings for var in _reads(binding.value))
    biased: set[relax.Var] = set()
    for binding in bindings:
        if getattr(getattr(binding.value, "op", None), "name", "") == "relax.add":
            product, bias = binding.value.args
            if isinstance(bias, GenericConst) and isinstance(product, relax.Var):
                biased.add(product)
    return {
        binding.var
        for binding in bindings
        if binding.var in biased
        and readers[binding.var] == 1
        and getattr(getattr(binding.value, "op", None), "name", "") in _PRODUCTS
    }


def _reads(expr: relax.Expr) -> list[relax.Var]:
    """The variables that one binding's value reads."""
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.TupleGetItem):
        return _reads(expr.tuple_value)
    fields = getattr(expr, "args", getattr(expr, "fields", ()))
    return [var for field in fields for var in _reads(field)]


def _variables(result: relax.Expr, bindings: Sequence[relax.VarBinding]) -> list[relax.Var]:
    """The tensors that a function returns."""
    if isinstance(result, relax.Var) and isinstance(result.ty, relax.TupleType):
        (value,) = [binding.value for binding in bindings if binding.var.same_as(result)]
        return _variables(value, bindings)
    return _reads(result)


def _has_constant(call: relax.Call) -> bool:
    """Reads it a number that is in no other operator's result, such as the infinity of a mask?"""
    return any(isinstance(arg, GenericConst) for arg in tensor_args(call))


def _is_rounded(var: relax.Var, strict: bool) -> bool:
    """Does a switch change this? What is float16 already only where infinities count."""
    types = ("float32", "float16") if strict else ("float32",)
    return isinstance(var.ty, relax.TensorType) and dtype_of(var) in types
