"""A folded ONNX graph becomes one Relax function.

Ensures: `main` takes the graph's inputs in order and returns a tuple of its outputs; weights are
constants; one dataflow block; every binding is named after the ONNX node that made it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from tvm import IRModule, relax

from hetero_tvm.errors import ImportDiffers, UnsupportedModel
from hetero_tvm.frontend import converters
from hetero_tvm.frontend.converters.context import Conversion, NodeBuilder, constant, static_shape
from hetero_tvm.frontend.folded_model import FoldedModel
from hetero_tvm.frontend.node_view import COMPUTED_DTYPES, NodeView
from hetero_tvm.memory import forget_pages
from relay_passes.rewrite_bindings import dataflow_bindings, rename_main

_NOT_IN_A_NAME = re.compile(r"\W+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The module, and which ONNX node each of its bindings came from."""

    mod: IRModule
    node_of: Mapping[str, str]
    tensor_of: Mapping[str, str]  # binding -> the ONNX value it equals, where it equals one


def to_relax(model: FoldedModel) -> Imported:
    """Convert every node of `model`; a failure names the node."""
    return _Importer(model).run()


def to_isolated_nodes(model: FoldedModel) -> tuple[IRModule, list[str], list[str]]:
    """Every node on its own: `main` takes each intermediate value and returns each node's result.

    Returns the module, the names of its parameters and of its results. No node sees what another
    one computed, so an error is where it shows.
    """
    return _Importer(model).run_isolated()


class _Importer:
    def __init__(self, model: FoldedModel) -> None:
        self._model = model
        self._builder = NodeBuilder()
        self._values: dict[str, relax.Expr] = {}
        self._weights: dict[str, relax.Expr] = {}
        self._owner: list[tuple[relax.Var, str]] = []  # emitted variable, node
        self._final: dict[relax.Var, tuple[str, str]] = {}  # variable -> (name, ONNX value)

    def run(self) -> Imported:
        graph = self._model.proto.graph
        params = []
        names = _Names()
        for spec in self._model.inputs:
            var = relax.Var(names.take(spec.name), relax.TensorType(spec.shape, spec.dtype))
            params.append(var)
            self._values[spec.name] = var
        with self._builder.function("main", params):
            with self._builder.dataflow():
                for node in graph.node:
                    self._convert(node)
                results = [self._output(spec.name) for spec in self._model.outputs]
            self._builder.emit_func_output(relax.Tuple(results))
        return self._named(self._builder.get(), names)

    def run_isolated(self) -> tuple[IRModule, list[str], list[str]]:
        graph = self._model.proto.graph
        values = {spec.name for spec in self._model.inputs}
        values |= {name for node in graph.node for name in node.output if name}
        read = {name for node in graph.node for name in node.input if name in values}
        params = {
            name: relax.Var(f"v{position}", self._type(name))
            for position, name in enumerate(sorted(read))
        }
        results: dict[str, relax.Expr] = {}
        with self._builder.function("main", list(params.values())):
            with self._builder.dataflow():
                for node in graph.node:
                    self._values = dict(params)
                    self._convert(node)
                    for name in node.output:
                        if name and isinstance(self._values[name], relax.Var):
                            results[name] = self._output(name)
            self._builder.emit_func_output(relax.Tuple(list(results.values())))
        return self._builder.get(), list(params), list(results)

    def _type(self, name: str) -> relax.TensorType:
        kind = self._model.types[name]
        return relax.TensorType(kind.shape, kind.dtype)

    def _weight(self, name: str) -> relax.Expr:
        if name not in self._weights:
            array = self._model.constants[name]
            self._weights[name] = constant(array)
            forget_pages(array)
        return self._weights[name]

    def _output(self, name: str) -> relax.Expr:
        value = self._values[name]
        return self._builder.emit_output(value) if isinstance(value, relax.DataflowVar) else value

    def _convert(self, proto: onnx.NodeProto) -> None:
        view = NodeView(
            proto=proto,
            opset=self._model.opset,
            types=self._model.types,
            constants=self._model.constants,
        )
        self._check_dtypes(view)
        first = len(self._builder.emitted)
        try:
            results = converters.convert(
                Conversion(view, self._builder, self._values, self._weight)
            )
            for index, name in enumerate(proto.output):
                if name:
                    self._take(view, index, results[index], first)
        except (RuntimeError, TypeError, ValueError, LookupError, OverflowError) as error:
            raise UnsupportedModel(f"node {view.label} cannot be imported: {error}") from error
        self._owner += [(var, proto.name) for var in self._builder.emitted[first:]]

    def _take(self, view: NodeView, index: int, value: relax.Expr, first: int) -> None:
        """Give the node's output `index` the value that its converter made."""
        name = view.proto.output[index]
        if not isinstance(value, relax.Var) and not converters.is_constant(value):
            value = self._builder.emit(value)
        self._check_type(view, name, value)
        self._values[name] = value
        if isinstance(value, relax.Var) and value in set(self._builder.emitted[first:]):
            suffix = f"_{index}" if index else ""
            self._final.setdefault(value, (f"{view.proto.name}{suffix}", name))

    def _check_dtypes(self, view: NodeView) -> None:
        for name in (*view.proto.input, *view.proto.output):
            if not name or name in self._model.constants:
                continue
            dtype = self._model.types[name].dtype
            if dtype not in COMPUTED_DTYPES:
                raise UnsupportedModel(
                    f"node {view.label} computes with {dtype} ({name!r}), which devices do not; "
                    "such numbers can be constants that a DequantizeLinear reads"
                )

    def _check_type(self, view: NodeView, name: str, value: relax.Expr) -> None:
        """ONNX's inference and Relax's must agree: a converter that is wrong often shows here."""
        wanted = self._model.types[name]
        found = (str(value.ty.dtype), static_shape(value))
        if found != (wanted.dtype, wanted.shape):
            raise ImportDiffers(
                f"node {view.label} was imported as {found[0]}{list(found[1])} and is "
                f"{wanted.dtype}{list(wanted.shape)} in ONNX; please report this model"
            )

    def _named(self, mod: IRModule, names: _Names) -> Imported:
        """Give every binding its name; unnamed ones belong to the next named one."""
        owner = dict(self._owner)
        rename: dict[relax.Var, str] = {}
        node_of: dict[str, str] = {}
        tensor_of: dict[str, str] = {}
        waiting: list[relax.Var] = []
        for binding in dataflow_bindings(mod["main"]):
            waiting.append(binding.var)
            node = owner.get(binding.var)
            if node is None:
                continue
            for var in waiting:
                base, value = self._final.get(var, (f"{node}_part", ""))
                name = names.take(base)
                rename[var] = name
                node_of[name] = self._model.origin[node]
                if value:
                    tensor_of[name] = value
            waiting = []
        mod = rename_main(mod, rename)
        kept = {binding.var.name for binding in dataflow_bindings(mod["main"])}
        return Imported(
            mod=mod,
            node_of={name: node for name, node in node_of.items() if name in kept},
            tensor_of={name: value for name, value in tensor_of.items() if name in kept},
        )


class _Names:
    """Hands out identifiers, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wanted: str) -> str:
        base = _NOT_IN_A_NAME.sub("_", wanted).strip("_") or "value"
        if base[0].isdigit():
            base = f"n{base}"
        name, count = base, 1
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name
