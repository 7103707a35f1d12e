"""Walk a model once with all shapes known, and leave a static graph of operators we can import.

The walk is an abstract interpretation: every value has a static type, and many have a known
value. In order, each node is
  1. dropped when it changes nothing (`Identity`, a cast to the same type, a reshape to the same
     shape, a repetition of an earlier node),
  2. evaluated when its inputs are known: shape arithmetic and constant weights disappear,
  3. replaced by simpler nodes when `decompose`, `control_flow` or the operator's own ONNX
     definition says how,
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
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx.inliner

from hetero_tvm.errors import (
    BadInput,
    ModelTooLarge,
    ModelUnreadable,
    OpenShapeError,
    ShapeMismatchError,
    UnsupportedModel,
)
from hetero_tvm.frontend import check_nodes, control_flow
from hetero_tvm.frontend.emitter import Emitter
from hetero_tvm.frontend.evaluate import evaluate_node
from hetero_tvm.frontend.folded_model import FoldedModel, Walked, assemble
from hetero_tvm.frontend.inlining import FreshNames, function_copy, graph_copy, named_copies
from hetero_tvm.frontend.node_types import Schemas
from hetero_tvm.frontend.node_view import STANDARD_DOMAINS, NodeView, ValueType, qualified_op
from hetero_tvm.frontend.tensor_spec import TensorSpec
from relay_passes.constant_file import lasting_array

logger = logging.getLogger(__name__)

Decomposition = Callable[[NodeView, Emitter], bool]
"""Writes the replacement and returns True, or returns False to leave the node alone."""

_MAX_GROWTH = 16  # a folded result may be this much larger than what it is made of ...
_MAX_FREE_BYTES = 16 << 20  # ... and small results may always be folded
_MAX_WORK = 2_000_000  # visited nodes; a guard against decompositions without end
_RANDOM_OPS = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial".split()
)
_CONTROL_FLOW = frozenset(("If", "Loop", "Scan"))
_RESHAPES = frozenset("Reshape Squeeze Unsqueeze Flatten Expand Tile".split())
_NUMBER_ATTRIBUTES = {
    "value_float": "float32",
    "value_floats": "float32",
    "value_int": "int64",
    "value_ints": "int64",
}

# What a node raises that is well-formed and still makes no sense: a branch with other results than
# its `If`, a permutation of other axes, a size that is no size.
_NONSENSE = (ValueError, TypeError, LookupError, OverflowError, AttributeError, MemoryError)


def fold_model(
    model: onnx.ModelProto,
    inputs: Sequence[TensorSpec],
    decompositions: Mapping[tuple[str, str], Decomposition],
    is_importable: Callable[[onnx.NodeProto], bool],
    mapped: Mapping[str, np.ndarray] | None = None,
) -> FoldedModel:
    """Fold `model` at the input shapes `inputs`; the module's docstring says how.

    `mapped`: values of initializers that have none in `model`. The result's `proto` has no
    initializers then, which would be a second copy of all weights: they are its `constants`.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    folder = _Folder(model, inputs, decompositions, is_importable, mapped)
    folder.run()
    return folder.result()


class _Folder:
    """The state of one walk."""

    def __init__(
        self,
        model: onnx.ModelProto,
        inputs: Sequence[TensorSpec],
        decompositions: Mapping[tuple[str, str], Decomposition],
        is_importable: Callable[[onnx.NodeProto], bool],
        mapped: Mapping[str, np.ndarray] | None,
    ) -> None:
        self._model, self._inputs, self._mapped = model, inputs, mapped
        self._decompositions, self._is_importable = decompositions, is_importable
        self._types: dict[str, ValueType] = {}
        self._constants: dict[str, np.ndarray] = {}
        self._alias: dict[str, str] = {}
        self._kept: list[onnx.NodeProto] = []
        self._unknown: set[str] = set()  # values behind an unsupported node
        self._unsupported: list[str] = []
        self._seen: dict[tuple, onnx.NodeProto] = {}
        self._budget = _MAX_WORK
        opsets = list(model.opset_import)
        if all(entry.domain != "com.microsoft" for entry in opsets):
            opsets.append(onnx.helper.make_opsetid("com.microsoft", 1))
        self._schemas = Schemas(opsets)
        for tensor in model.graph.initializer:
            known = (mapped or {}).get(tensor.name)
            array = onnx.numpy_helper.to_array(tensor) if known is None else known
            self._set_constant(tensor.name, array)
        for sparse in model.graph.sparse_initializer:
            self._unsupported.append(f"{sparse.values.name!r} (sparse weights)")
        for spec in inputs:
            self._types[spec.name] = ValueType(dtype=spec.dtype, shape=spec.shape)
        values = {name for node in model.graph.node for name in node.output}
        self._names = FreshNames(values | set(self._types))

    # -- the walk ------------------------------------------------------------------------------

    def run(self) -> None:
        """Visit every node, and report everything that cannot be imported."""
        self._walk(named_copies(self._model.graph.node, self._names))
        if self._unsupported:
            count = len(self._unsupported)
            raise UnsupportedModel(
                f"{count} node{'s' if count > 1 else ''} cannot be imported: "
                f"{'; '.join(self._unsupported)}. Replace them in the model, "
                "or add a rule in hetero_tvm/frontend"
            )

    def _walk(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Visit `nodes`, and what replaces them, in order."""
        work = deque(nodes)
        while work:
            self._budget -= 1
            if self._budget < 0:
                raise ModelTooLarge(f"the model expands to more than {_MAX_WORK} nodes")
            node = work.popleft()
            try:
                work.extendleft(reversed(self._step(node)))
            except _NONSENSE as error:
                name = self._names.source(node.name)
                raise UnsupportedModel(
                    f"node {name!r} ({qualified_op(node)}) cannot be imported: {error}"
                ) from error

    def _step(self, original: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Deal with one node; returns the nodes to visit next in its place."""
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for index, name in enumerate(node.input):
            node.input[index] = self._alias.get(name, name)
        view = NodeView(
            proto=node, opset=self._schemas.opset, types=self._types, constants=self._constants
        )
        schema = self._schemas.find(node)
        wrong = None if schema is None else check_nodes.problem(node, schema)
        if wrong is not None:
            raise ModelUnreadable(f"node {view.label} {wrong}; the file is damaged")
        if any(name in self._unknown for name in node.input):
            # Its types cannot be known any more; whether it has a rule at all can.
            if not self._has_rule(node):
                self._give_up(view, "")
            self._unknown.update(name for name in node.output if name)
            return []
        if node.op_type in _CONTROL_FLOW and node.domain in STANDARD_DOMAINS:
            if not control_flow.expand(view, self):
                self._give_up(view, "its course depends on the data")
            return []
        if self._is_nothing(view):
            self._alias[node.output[0]] = node.input[0]
            return []
        if self._fold(view):
            return []
        replacement = self._decompose(view)
        if replacement is not None:
            return replacement
        if not self._is_importable(node):
            self._give_up(view, "")
            return []
        return self._keep(view)

    def _has_rule(self, node: onnx.NodeProto) -> bool:
        domain = "" if node.domain in STANDARD_DOMAINS else node.domain
        if not domain and node.op_type in _CONTROL_FLOW:
            return True
        if self._is_importable(node) or (domain, node.op_type) in self._decompositions:
            return True
        schema = self._schemas.find(node)
        return schema is not None and bool(
            schema.has_function or schema.has_context_dependent_function
        )

    def _give_up(self, view: NodeView, why: str) -> None:
        name, operator = self._names.source(view.proto.name), qualified_op(view.proto)
        whole = self._names.operator.get(name, operator)
        if whole != operator:
            operator = f"{whole}, which is made of {operator}"
        self._unsupported.append(f"{name!r} ({operator}{': ' + why if why else ''})")
        self._unknown.update(output for output in view.proto.output if output)

    # -- what control flow asks for (`control_flow.Walker`) ------------------------------------

    def inline(self, graph: onnx.GraphProto, arguments: list[str], prefix: str) -> list[str]:
        """Walk a subgraph in place; returns its results. `ShapeMismatchError` undoes it."""
        nodes, weights, results = graph_copy(graph, arguments, prefix, self._names)
        for name, tensor in weights.items():
            self._set_constant(name, onnx.numpy_helper.to_array(tensor))
        kept, unsupported, seen = len(self._kept), len(self._unsupported), dict(self._seen)
        try:
            self._walk(nodes)
        except ShapeMismatchError:
            del self._kept[kept:], self._unsupported[unsupported:]
            self._seen = seen
            raise
        return [self._alias.get(name, name) for name in results]

    def emitter(self, view: NodeView) -> Emitter:
        """A place to write nodes in place of `view`."""
        return Emitter(view, self._names.take)

    def emit(self, view: NodeView, emitter: Emitter) -> None:
        """Walk what `emitter` collected."""
        self._walk(self._adopt(view.proto, emitter))

    def known(self, name: str) -> np.ndarray | None:
        """The value of `name`, if it is known."""
        return self._constants.get(self._alias.get(name, name))

    def kind(self, name: str) -> ValueType | None:
        """The type of `name`; `None` behind an unsupported node."""
        return self._types.get(self._alias.get(name, name))

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
            infers = training is not None and not training.any()
            return not masked and (infers or not view.has(2))
        if node.op_type == "Cast":
            to = onnx.helper.tensor_dtype_to_np_dtype(view.attr("to")).name
            return node.input[0] in self._types and to == view.dtype(0)
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
        if has_graphs or not all(name in self._constants for name in present):
            return False
        if node.op_type in _RANDOM_OPS:
            return False
        inputs = {name: self._constants[name] for name in present}
        if self._would_bloat(view, inputs):
            return False
        try:
            results = evaluate_node(node, inputs, self._schemas.opsets)
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
            if attribute.name == "value":
                array = onnx.numpy_helper.to_array(value)
            elif attribute.name in _NUMBER_ATTRIBUTES:
                array = np.array(value, dtype=_NUMBER_ATTRIBUTES[attribute.name])
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
        except BadInput:
            return False
        result_bytes = sum(
            math.prod(kind.shape) * np.dtype(kind.dtype).itemsize for kind in outputs.values()
        )
        return result_bytes > max(_MAX_FREE_BYTES, _MAX_GROWTH * known_bytes)

    def _set_constant(self, name: str, array: np.ndarray) -> None:
        # What is made here may be several times the model's file, as from codes of four bits; what
        # the model holds would be there twice; what is mapped is known as such from here on.
        self._constants[name] = lasting_array(array)
        self._types[name] = ValueType(dtype=array.dtype.name, shape=tuple(array.shape))

    # -- step 3: simpler nodes -----------------------------------------------------------------

    def _decompose(self, view: NodeView) -> list[onnx.NodeProto] | None:
        node = view.proto
        domain = "" if node.domain in STANDARD_DOMAINS else node.domain
        rule = self._decompositions.get((domain, node.op_type))
        if rule is not None:
            if self._schemas.find(node) is not None:
                self._check_shapes(view)
            emitter = self.emitter(view)
            if rule(view, emitter):
                return self._adopt(node, emitter)
        return None if self._is_importable(node) else self._definition(view)

    def _check_shapes(self, view: NodeView) -> None:
        """Rules may rely on ranks and sizes that ONNX prescribes."""
        try:
            self._infer(view)
        except OpenShapeError:
            return

    def _adopt(self, node: onnx.NodeProto, emitter: Emitter) -> list[onnx.NodeProto]:
        for name, array in emitter.constants.items():
            self._set_constant(name, array)
        return self._from(node, emitter.nodes)

    def _from(self, node: onnx.NodeProto, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Remember which original node the new ones belong to."""
        for new in nodes:
            if not new.name:
                new.name = self._names.take(f"{node.name}/{new.op_type}")
            self._names.origin[new.name] = self._names.source(node.name)
        return nodes

    def _definition(self, view: NodeView) -> list[onnx.NodeProto] | None:
        """The operator's definition by other operators, from ONNX's own schema."""
        body = self._schemas.definition(view.proto, self._types)
        if body is None:
            return None
        return self._from(view.proto, function_copy(body, view.proto, self._names))

    # -- step 4: kept nodes --------------------------------------------------------------------

    def _keep(self, view: NodeView) -> list[onnx.NodeProto]:
        """Keep the node with its inferred types, or its definition when it has no inference."""
        node = view.proto
        try:
            outputs = self._infer(view)
        except OpenShapeError as error:
            body = self._definition(view)
            if body is not None:
                return body
            self._give_up(view, str(error))
            return []
        if self._keeps_value(view, outputs):
            self._alias[node.output[0]] = node.input[0]
            return []
        key = (
            node.domain,
            node.op_type,
            tuple(node.input),
            tuple(sorted(attr.SerializeToString() for attr in node.attribute)),
            tuple(bool(name) for name in node.output),
        )
        earlier = self._seen.get(key)
        if earlier is not None:
            for name, same in zip(node.output, earlier.output, strict=True):
                if name:
                    self._alias[name] = same
            return []
        self._seen[key] = node
        self._types.update(outputs)
        self._kept.append(node)
        return []

    def _keeps_value(self, view: NodeView, outputs: dict[str, ValueType]) -> bool:
        """Does this shape operator leave shape and order as they are?"""
        node = view.proto
        if node.domain not in STANDARD_DOMAINS or len(node.output) != 1:
            return False
        same = node.input and outputs[node.output[0]] == self._types.get(node.input[0])
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

    def _infer(self, view: NodeView) -> dict[str, ValueType]:
        return self._schemas.infer(view.proto, self._types, self._constants)

    def result(self) -> FoldedModel:
        """The kept nodes that an output needs, as a model of their own."""
        return assemble(
            self._model,
            with_weights=self._mapped is None,
            walked=Walked(
                inputs=tuple(self._inputs),
                nodes=self._kept,
                types=self._types,
                constants=self._constants,
                alias=self._alias,
                names=self._names,
                schemas=self._schemas,
            ),
        )
