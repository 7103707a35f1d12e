"""Walk a model once with all shapes known, and leave a static graph of operators we can import.

The walk is an abstract interpretation: every value has a static type, and many have a known
value. In order, each node is
  1. dropped when it changes nothing (`Identity`, a cast to the same type, a reshape to the same
     shape, a repetition of an earlier node),
  2. evaluated when its inputs are known: shape arithmetic and constant weights disappear,
  3. replaced by simpler nodes when `decompose` or the operator's own ONNX function says how,
  4. kept, with the type that ONNX's shape inference gives it.

Each step sees constants as they arise, so a `Reshape` whose target was computed from `Shape`
three nodes earlier needs no second pass.

Requires: `read_model` accepted the file; `inputs` fixes every input.
Ensures:  static types everywhere; outputs and inputs keep their names; all problems are reported
in one error.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.inliner

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend.emitter import Emitter
from hetero_tvm.frontend.evaluate import evaluate_node
from hetero_tvm.frontend.node_view import STANDARD_DOMAINS, NodeView, ValueType, qualified_op
from hetero_tvm.frontend.tensor_spec import TensorSpec

logger = logging.getLogger(__name__)

Decomposition = Callable[[NodeView, Emitter], bool]
"""Writes the replacement and returns True, or returns False to leave the node alone."""

_MAX_GROWTH = 16  # a folded result may be this much larger than what it is made of ...
_MAX_FREE_BYTES = 16 << 20  # ... and small results may always be folded
_MAX_SHAPE_DATA_BYTES = 1 << 16  # constants up to this size are shown to shape inference
_MAX_WORK = 2_000_000  # expanded nodes; a guard against decompositions without end
_RANDOM_OPS = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial".split()
)
_DATA_DEPENDENT_OPS = frozenset("NonZero Unique Compress NonMaxSuppression StringSplit".split())
_RESHAPES = frozenset("Reshape Squeeze Unsqueeze Flatten Expand Tile".split())


@dataclass(frozen=True, kw_only=True)
class FoldedModel:
    """A static graph: no shape computation, no control flow, every operator importable."""

    proto: onnx.ModelProto  # valid ONNX, the same function as the original at these shapes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    types: dict[str, ValueType]
    constants: dict[str, np.ndarray]
    origin: dict[str, str]  # node name here -> node name in the original
    opset: int


def fold_model(
    model: onnx.ModelProto,
    inputs: Sequence[TensorSpec],
    decompositions: dict[tuple[str, str], Decomposition],
    is_importable: Callable[[onnx.NodeProto], bool],
) -> FoldedModel:
    """Fold `model` at the input shapes `inputs`; the module's docstring says how."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    folder = _Folder(model, inputs, decompositions, is_importable)
    folder.walk()
    return folder.result()


@dataclass
class _Folder:
    """The state of one walk."""

    model: onnx.ModelProto
    inputs: Sequence[TensorSpec]
    decompositions: dict[tuple[str, str], Decomposition]
    is_importable: Callable[[onnx.NodeProto], bool]
    types: dict[str, ValueType] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    alias: dict[str, str] = field(default_factory=dict)
    kept: list[onnx.NodeProto] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)  # values behind an unsupported node
    unsupported: list[str] = field(default_factory=list)
    seen: dict[tuple, onnx.NodeProto] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.opsets = list(self.model.opset_import)
        versions = {entry.domain: entry.version for entry in self.opsets}
        self.opset = versions.get("", versions.get("ai.onnx", 1))
        self.versions = {**versions, "": self.opset, "ai.onnx": self.opset}
        if "com.microsoft" not in versions:
            self.opsets.append(onnx.helper.make_opsetid("com.microsoft", 1))
        graph = self.model.graph
        self.names = {name for node in graph.node for name in node.output}
        for tensor in graph.initializer:
            self._set_constant(tensor.name, onnx.numpy_helper.to_array(tensor))
        for sparse in graph.sparse_initializer:
            self.unsupported.append(f"{sparse.values.name!r} (sparse weights)")
        for spec in self.inputs:
            self.types[spec.name] = ValueType(dtype=spec.dtype, shape=spec.shape)
        self.names.update(self.types)

    # -- the walk ------------------------------------------------------------------------------

    def walk(self) -> None:
        """Visit every node once, and what replaces it."""
        work = deque(_named(self.model.graph.node, self.names, self.origin))
        budget = _MAX_WORK
        while work:
            budget -= 1
            if budget < 0:
                raise BadInput(f"the model expands to more than {_MAX_WORK} nodes")
            replacement = self._step(work.popleft())
            work.extendleft(reversed(replacement))
        if self.unsupported:
            count = len(self.unsupported)
            raise BadInput(
                f"{count} node{'s' if count > 1 else ''} cannot be imported: "
                f"{'; '.join(self.unsupported)}. Replace them in the model, "
                "or add a rule in hetero_tvm/frontend"
            )

    def _step(self, original: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Deal with one node; returns the nodes to visit next in its place."""
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for index, name in enumerate(node.input):
            node.input[index] = self.alias.get(name, name)
        if any(name in self.unknown for name in node.input):
            self.unknown.update(name for name in node.output if name)
            return []
        view = NodeView(proto=node, opset=self.opset, types=self.types, constants=self.constants)
        if node.op_type == "If" and node.domain in STANDARD_DOMAINS:
            return self._inline_if(view)
        if self._is_nothing(view):
            self.alias[node.output[0]] = node.input[0]
            return []
        if self._fold(view):
            return []
        replacement = self._decompose(view)
        if replacement is not None:
            return replacement
        if not self.is_importable(node):
            self._give_up(view, "")
            return []
        self._keep(view)
        return []

    def _give_up(self, view: NodeView, why: str) -> None:
        name = self.origin.get(view.proto.name, view.proto.name)
        self.unsupported.append(f"{name!r} ({qualified_op(view.proto)}{': ' + why if why else ''})")
        self.unknown.update(output for output in view.proto.output if output)

    # -- step 1: nodes that change nothing -----------------------------------------------------

    def _is_nothing(self, view: NodeView) -> bool:
        node = view.proto
        if node.domain not in STANDARD_DOMAINS:
            return False
        if node.op_type == "Identity":
            return True
        if node.op_type == "Dropout":
            training = view.const(2)
            masked = len(node.output) > 1 and bool(node.output[1])
            return not masked and (training is None or not training.any())
        if node.op_type == "Cast":
            to = onnx.helper.tensor_dtype_to_np_dtype(view.attr("to")).name
            return node.input[0] in self.types and to == view.dtype(0)
        return False

    # -- step 2: known values ------------------------------------------------------------------

    def _fold(self, view: NodeView) -> bool:
        node = view.proto
        if node.domain in STANDARD_DOMAINS:
            if node.op_type == "Constant":
                return self._fold_constant(view)
            if node.op_type == "Shape":
                begin, end = view.attr("start", 0), view.attr("end")
                dims = view.shape(0)[begin:end]
                self._set_constant(node.output[0], np.array(dims, dtype=np.int64))
                return True
            if node.op_type == "Size":
                size = math.prod(view.shape(0))
                self._set_constant(node.output[0], np.array(size, dtype=np.int64))
                return True
        present = [name for name in node.input if name]
        has_graphs = any(attr.HasField("g") or attr.graphs for attr in node.attribute)
        if has_graphs or not all(name in self.constants for name in present):
            return False
        if node.op_type in _RANDOM_OPS:
            return False
        inputs = {name: self.constants[name] for name in present}
        if self._would_bloat(view, inputs):
            return False
        try:
            results = evaluate_node(node, inputs, self.opsets)
        except Exception as error:  # noqa: BLE001  ONNX Runtime has no common base class
            logger.debug("%s is not folded: %s", view.label, error)
            return False
        for name, array in zip(node.output, results, strict=True):
            if name:
                self._set_constant(name, array)
        return True

    def _fold_constant(self, view: NodeView) -> bool:
        for attribute in view.proto.attribute:
            value = onnx.helper.get_attribute_value(attribute)
            kinds = {"value_float": "float32", "value_floats": "float32"}
            kinds |= {"value_int": "int64", "value_ints": "int64"}
            if attribute.name == "value":
                array = onnx.numpy_helper.to_array(value)
            elif attribute.name in kinds:
                array = np.array(value, dtype=kinds[attribute.name])
            else:
                self._give_up(view, f"{attribute.name} constants are not supported")
                return True
            self._set_constant(view.proto.output[0], array)
            return True
        return False

    def _would_bloat(self, view: NodeView, inputs: dict[str, np.ndarray]) -> bool:
        """Would folding turn little data into a lot of it?"""
        known_bytes = sum(array.nbytes for array in inputs.values())
        try:
            outputs = self._infer(view)
        except (onnx.shape_inference.InferenceError, BadInput, ValueError):
            return False
        result_bytes = sum(
            math.prod(kind.shape) * np.dtype(kind.dtype).itemsize for kind in outputs.values()
        )
        return result_bytes > max(_MAX_FREE_BYTES, _MAX_GROWTH * known_bytes)

    def _set_constant(self, name: str, array: np.ndarray) -> None:
        self.constants[name] = array
        self.types[name] = ValueType(dtype=array.dtype.name, shape=tuple(array.shape))

    # -- step 3: simpler nodes -----------------------------------------------------------------

    def _decompose(self, view: NodeView) -> list[onnx.NodeProto] | None:
        node = view.proto
        domain = "" if node.domain in STANDARD_DOMAINS else node.domain
        rule = self.decompositions.get((domain, node.op_type))
        emitter = Emitter(view, self._fresh)
        if rule is not None and rule(view, emitter):
            for name, array in emitter.constants.items():
                self._set_constant(name, array)
            return self._adopt(node, emitter.nodes)
        if self.is_importable(node):
            return None
        body = self._function_body(view)
        return None if body is None else self._adopt(node, body)

    def _adopt(self, node: onnx.NodeProto, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Remember which original node the new ones belong to."""
        source = self.origin.get(node.name, node.name)
        for new in nodes:
            if not new.name:
                new.name = self._fresh(f"{node.name}/{new.op_type}")
            self.origin[new.name] = source
        return nodes

    def _function_body(self, view: NodeView) -> list[onnx.NodeProto] | None:
        """The operator's definition by other operators, from ONNX's own schema."""
        node = view.proto
        schema = self._schema(node)
        if schema is None:
            return None
        if schema.has_function and schema.function_opset_versions:
            usable = [v for v in schema.function_opset_versions if v <= self.opset]
            if usable:
                text = schema.get_function_with_opset_version(max(usable))
                return self._instantiate(onnx.FunctionProto.FromString(text), view)
        if schema.has_context_dependent_function:
            versions = schema.context_dependent_function_opset_versions
            usable = [v for v in versions if v <= self.opset]
            if usable:
                types = [
                    _type_proto(self.types[name]).SerializeToString() if name else b""
                    for name in node.input
                ]
                text = schema.get_context_dependent_function_with_opset_version(
                    max(usable), node.SerializeToString(), types
                )
                return self._instantiate(onnx.FunctionProto.FromString(text), view)
        return None

    def _instantiate(self, body: onnx.FunctionProto, view: NodeView) -> list[onnx.NodeProto]:
        node = view.proto
        given = list(node.input) + [""] * (len(body.input) - len(node.input))
        rename = dict(zip(body.input, given, strict=False))
        wanted = list(node.output) + [""] * (len(body.output) - len(node.output))
        for name, target in zip(body.output, wanted, strict=False):
            rename[name] = target or self._fresh(f"{node.name}/{name}")
        attributes = {attr.name: attr for attr in body.attribute_proto}
        attributes |= {attr.name: attr for attr in node.attribute}
        nodes = []
        for inner in body.node:
            copy = self._renamed(inner, rename, node.name)
            for attr in list(copy.attribute):
                if attr.ref_attr_name:
                    copy.attribute.remove(attr)
                    if attr.ref_attr_name in attributes:
                        value = copy.attribute.add()
                        value.CopyFrom(attributes[attr.ref_attr_name])
                        value.name = attr.name
            nodes.append(copy)
        return nodes

    def _inline_if(self, view: NodeView) -> list[onnx.NodeProto]:
        """One branch when the condition is known, else both and a `Where`.

        ONNX operators have no side effects, so computing the other branch as well is only work.
        """
        node = view.proto
        branches = {"then": view.attr("then_branch"), "else": view.attr("else_branch")}
        known = view.const(0)
        if known is not None:
            chosen = branches["then" if bool(known.reshape(-1)[0]) else "else"]
            nodes, results = self._inline_graph(chosen, node.name)
            nodes += [
                onnx.helper.make_node("Identity", [result], [output])
                for result, output in zip(results, node.output, strict=True)
                if output
            ]
            return self._adopt(node, nodes)
        emitter = Emitter(view, self._fresh)
        condition = emitter.reshape(node.input[0], [])
        nodes = []
        results = {}
        for key, graph in branches.items():
            inlined, results[key] = self._inline_graph(graph, f"{node.name}/{key}")
            # Nodes of a branch keep their own names in reports: they are the model's.
            for inner in inlined:
                self.origin[inner.name] = self.origin.get(inner.name, inner.name)
            nodes += inlined
        for index, (then, other) in enumerate(zip(results["then"], results["else"], strict=True)):
            emitter.output(emitter.op("Where", condition, then, other), index)
        for name, array in emitter.constants.items():
            self._set_constant(name, array)
        return nodes + self._adopt(node, emitter.nodes)

    def _inline_graph(
        self, graph: onnx.GraphProto, prefix: str
    ) -> tuple[list[onnx.NodeProto], list[str]]:
        """The nodes of a subgraph with fresh names, and the names of its results."""
        rename: dict[str, str] = {}
        for tensor in graph.initializer:
            rename[tensor.name] = self._fresh(f"{prefix}/{tensor.name}")
            self._set_constant(rename[tensor.name], onnx.numpy_helper.to_array(tensor))
        nodes = []
        for inner in graph.node:
            for name in inner.output:
                if name:
                    rename[name] = self._fresh(name)
            copy = self._renamed(inner, rename, prefix)
            self.origin[copy.name] = inner.name or copy.name
            nodes.append(copy)
        return nodes, [rename.get(output.name, output.name) for output in graph.output]

    def _renamed(self, node: onnx.NodeProto, rename: dict[str, str], prefix: str) -> onnx.NodeProto:
        """A copy of `node` with its values renamed, in nested graphs too."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = self._fresh(node.name or f"{prefix}/{node.op_type}")
        for index, name in enumerate(copy.input):
            copy.input[index] = rename.get(name, name)
        for index, name in enumerate(copy.output):
            if name:
                rename.setdefault(name, self._fresh(f"{prefix}/{name}"))
                copy.output[index] = rename[name]
        for attribute in copy.attribute:
            if attribute.HasField("g"):
                _rename_free(attribute.g, rename)
        return copy

    # -- step 4: kept nodes --------------------------------------------------------------------

    def _keep(self, view: NodeView) -> None:
        node = view.proto
        try:
            outputs = self._infer(view)
        except onnx.shape_inference.InferenceError as error:
            raise BadInput(
                f"node {self.origin.get(node.name, node.name)!r} ({qualified_op(node)}) does not "
                f"fit its inputs {[list(self.types[n].shape) for n in node.input if n]}: "
                f"{_first_line(error)}"
            ) from error
        except _OpenShapeError as error:
            self._give_up(view, str(error))
            return
        if self._keeps_value(view, outputs):
            self.alias[node.output[0]] = node.input[0]
            return
        key = (
            node.domain,
            node.op_type,
            tuple(node.input),
            tuple(sorted(attr.SerializeToString() for attr in node.attribute)),
            tuple(bool(name) for name in node.output),
        )
        earlier = self.seen.get(key)
        if earlier is not None:
            for name, same in zip(node.output, earlier.output, strict=True):
                if name:
                    self.alias[name] = same
            return
        self.seen[key] = node
        self.types.update(outputs)
        self.kept.append(node)

    def _keeps_value(self, view: NodeView, outputs: dict[str, ValueType]) -> bool:
        """Does this shape operator leave shape and order as they are?"""
        node = view.proto
        if node.domain not in STANDARD_DOMAINS or len(node.output) != 1:
            return False
        same = node.input and outputs[node.output[0]] == self.types.get(node.input[0])
        if not same:
            return False
        if node.op_type in _RESHAPES:
            return True
        if node.op_type == "Slice":
            steps = view.ints("steps", 4) or [1]
            return all(step > 0 for step in steps)
        if node.op_type == "Transpose":
            rank = len(view.shape(0))
            return list(view.attr("perm", range(rank)[::-1])) == list(range(rank))
        return node.op_type == "Concat" and len(node.input) == 1

    def _schema(self, node: onnx.NodeProto) -> onnx.defs.OpSchema | None:
        domain = "" if node.domain in STANDARD_DOMAINS else node.domain
        version = self.versions.get(node.domain, 1)
        if not onnx.defs.has(node.op_type, version, domain):
            return None
        return onnx.defs.get_schema(node.op_type, version, domain)

    def _infer(self, view: NodeView) -> dict[str, ValueType]:
        """Static types of the node's outputs, or `_OpenShapeError` saying why there are none."""
        node = view.proto
        schema = self._schema(node)
        if schema is None:
            raise _OpenShapeError("its shape is not known")
        types = {name: _type_proto(self.types[name]) for name in node.input if name}
        data = {
            name: onnx.numpy_helper.from_array(self.constants[name], name)
            for name in node.input
            if name in self.constants and self.constants[name].nbytes <= _MAX_SHAPE_DATA_BYTES
        }
        inferred = onnx.shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=self.opsets
        )
        outputs = {}
        for name in node.output:
            if not name:
                continue
            kind = _static_type(inferred.get(name))
            if kind is None:
                if node.op_type in _DATA_DEPENDENT_OPS:
                    raise _OpenShapeError("the shape of its result depends on the data")
                raise _OpenShapeError("the shape of its result is computed from an input's values")
            outputs[name] = kind
        return outputs

    # -- names and the result ------------------------------------------------------------------

    def _fresh(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self.names:
            count += 1
            name = f"{wanted}_{count}"
        self.names.add(name)
        return name

    def result(self) -> FoldedModel:
        """The kept nodes that an output needs, as a model of their own."""
        nodes = self._with_output_names()
        nodes = _live(nodes, [output.name for output in self.model.graph.output])
        used = {name for node in nodes for name in node.input if name}
        constants = {name: array for name, array in self.constants.items() if name in used}
        outputs = tuple(
            TensorSpec(name=o.name, dtype=self.types[o.name].dtype, shape=self.types[o.name].shape)
            for o in self.model.graph.output
        )
        graph = onnx.helper.make_graph(
            nodes,
            self.model.graph.name or "main",
            [_value_info(spec.name, self.types[spec.name]) for spec in self.inputs],
            [_value_info(spec.name, self.types[spec.name]) for spec in outputs],
            initializer=[onnx.numpy_helper.from_array(a, n) for n, a in constants.items()],
            value_info=[
                _value_info(name, self.types[name])
                for node in nodes
                for name in node.output
                if name and name not in {spec.name for spec in outputs}
            ],
        )
        proto = onnx.helper.make_model(
            graph, opset_imports=self.opsets, ir_version=max(self.model.ir_version, 8)
        )
        return FoldedModel(
            proto=proto,
            inputs=tuple(self.inputs),
            outputs=outputs,
            types=self.types,
            constants=constants,
            origin={node.name: self.origin.get(node.name, node.name) for node in nodes},
            opset=self.opset,
        )

    def _with_output_names(self) -> list[onnx.NodeProto]:
        """Kept nodes, renamed so that each graph output is produced under its own name."""
        produced = {name for node in self.kept for name in node.output if name}
        rename: dict[str, str] = {}
        extra = []
        for output in self.model.graph.output:
            value = self.alias.get(output.name, output.name)
            if value == output.name and value in produced:
                continue
            if value in produced and value not in rename and not self._is_output(value):
                rename[value] = output.name
            else:
                source = rename.get(value, value)
                name = self._fresh(f"{output.name}/output")
                extra.append(onnx.helper.make_node("Identity", [source], [output.name], name=name))
            self.types[output.name] = self.types[value]
        for node in self.kept:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    names[index] = rename.get(name, name)
        return self.kept + extra

    def _is_output(self, name: str) -> bool:
        return any(output.name == name for output in self.model.graph.output)


class _OpenShapeError(BadInput):
    """A node's output shape cannot be known at compile time."""


def _named(
    nodes: Sequence[onnx.NodeProto], taken: set[str], origin: dict[str, str]
) -> list[onnx.NodeProto]:
    """Copies of `nodes`, each with its own name; unnamed ones are called after their output."""
    used: set[str] = set()
    result = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        base = node.name or next((name for name in node.output if name), node.op_type)
        copy.name, count = base, 1
        while copy.name in used:
            count += 1
            copy.name = f"{base}_{count}"
        used.add(copy.name)
        origin[copy.name] = copy.name
        result.append(copy)
    taken.update(used)
    return result


def _rename_free(graph: onnx.GraphProto, rename: dict[str, str]) -> None:
    """Rename what a nested graph reads from outside."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    visible = {name: new for name, new in rename.items() if name not in own}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = visible.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename_free(attribute.g, visible)
    for output in graph.output:
        output.name = visible.get(output.name, output.name)


def _live(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that `outputs` depend on, in their order; unread extra outputs lose their name."""
    needed = set(outputs)
    live = []
    for node in reversed(nodes):
        if not needed.intersection(node.output):
            continue
        needed.update(name for name in node.input if name)
        while len(node.output) > 1 and node.output[-1] not in needed:
            del node.output[-1]
        live.append(node)
    return live[::-1]


def _type_proto(kind: ValueType) -> onnx.TypeProto:
    elem = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind.dtype))
    return onnx.helper.make_tensor_type_proto(elem, kind.shape)


def _value_info(name: str, kind: ValueType) -> onnx.ValueInfoProto:
    return onnx.helper.make_value_info(name, _type_proto(kind))


def _static_type(proto: onnx.TypeProto | None) -> ValueType | None:
    if proto is None or not proto.HasField("tensor_type"):
        return None
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return None
    if any(not dim.HasField("dim_value") or dim.dim_value < 0 for dim in tensor.shape.dim):
        return None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return ValueType(dtype=dtype, shape=tuple(dim.dim_value for dim in tensor.shape.dim))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


__all__ = ["Decomposition", "FoldedModel", "fold_model"]
