"""Walk a region's bindings and put what the emitters write into one model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

import onnx
from onnx import helper
from tvm import relax
from tvm.ir import GenericConst

from relay_passes.constants import values_of
from relay_passes.npu_onnx.graph import (
    EMITTERS,
    MICROSOFT,
    Emitter,
    Keep,
    OnnxGraph,
    Operand,
    OutsideWeight,
    element_type,
    shape_of_type,
)
from relay_passes.npu_onnx.product import ChooseForm, as_written

# RMSNormalization needs 23; ONNX Runtime 1.31 and its QNN provider take both.
OPSET = 23
IR_VERSION = 11


class NotExpressible(ValueError):
    """A region holds something that no emitter writes."""


def region_to_onnx(
    region: relax.Function, *, half_inside: bool, product_form: ChooseForm = as_written
) -> onnx.ModelProto:
    """The model of `emit_region`."""
    return emit_region(region, half_inside=half_inside, product_form=product_form)[0]


def emit_region(
    region: relax.Function,
    *,
    half_inside: bool,
    product_form: ChooseForm = as_written,
    keep: Keep | None = None,
) -> tuple[onnx.ModelProto, dict[str, str], tuple[OutsideWeight, ...]]:
    """The model of one region; inputs are `in0..` in parameter order, outputs `out0..`.

    With it, of which binding of the region each of its nodes is a part: node -> binding; and what
    `keep` took.

    Args:
        region: straight-line Relax code that returns a tensor or a tuple of tensors.
        half_inside: see `OnnxGraph`.
        product_form: asked for every matrix product with a constant right side how to write it.
        keep: see `OnnxGraph`.

    Raises:
        NotExpressible: an operator has no emitter, or the region is not straight-line code.
    """
    graph = OnnxGraph(half_inside=half_inside, product_form=product_form, keep=keep)
    names: dict[relax.Var, Operand] = {}
    inputs = []
    for index, param in enumerate(region.params):
        names[param] = f"in{index}"
        inputs.append(value_info(f"in{index}", param.ty))
    maker: dict[str, str] = {}
    for block in region.body.blocks:
        for binding in block.bindings:
            before = len(graph.nodes)
            names[binding.var] = emit_value(graph, binding.value, names)
            maker.update((node.name, binding.var.name) for node in graph.nodes[before:])
    model = finish_model(graph, inputs, emit_outputs(graph, region.body.body, names))
    return model, maker, tuple(_outside_weights(graph, model))


def _outside_weights(graph: OnnxGraph, model: onnx.ModelProto) -> Iterator[OutsideWeight]:
    for tensor in model.graph.initializer:
        if tensor.name in graph.kept:
            array = graph.kept[tensor.name]
            assert graph.keep is not None
            yield OutsideWeight(
                name=tensor.name,
                dtype=array.dtype.name,
                shape=array.shape,
                number=graph.keep(array),
            )


def finish_model(
    graph: OnnxGraph,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """What `graph` holds as a model, without weights that nothing reads."""
    read = set(_reads(graph.nodes))
    weights = [weight for weight in graph.initializers if weight.name in read]
    proto = helper.make_graph(graph.nodes, "region", inputs, outputs, weights)
    opset = [helper.make_opsetid("", OPSET)]
    if any(node.domain == MICROSOFT for node in graph.nodes):
        opset.append(helper.make_opsetid(MICROSOFT, 1))
    return helper.make_model(
        proto, opset_imports=opset, ir_version=IR_VERSION, producer_name="hetero_tvm"
    )


def _reads(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Every name that `nodes` read, their branches too."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _reads(attribute.g.node)


def emit_value(
    graph: OnnxGraph,
    expr: relax.Expr,
    names: dict[relax.Var, Operand],
    more: Mapping[str, Emitter] = MappingProxyType({}),
) -> Operand:
    """Append what a binding's value needs; the names of its results.

    `more`: emitters of operators that `EMITTERS` lacks, where it is not for an NPU.
    """
    if isinstance(expr, relax.Call):
        op = getattr(expr.op, "name", str(expr.op))
        emit = EMITTERS.get(op) or more.get(op)
        if emit is None:
            raise NotExpressible(f"no ONNX form for {op} in an NPU region")
        return emit(graph, expr, [_operand(graph, arg, names) for arg in expr.args])
    return _operand(graph, expr, names)


def _operand(graph: OnnxGraph, expr: relax.Expr, names: dict[relax.Var, Operand]) -> Operand:
    """Names of an argument; shapes and attribute-like arguments have none (the empty name)."""
    if isinstance(expr, relax.Var):
        return names[expr]
    if isinstance(expr, GenericConst):
        return graph.constant(values_of(expr))
    if isinstance(expr, relax.Tuple):
        return tuple(str(_operand(graph, field, names)) for field in expr.fields)
    if isinstance(expr, relax.TupleGetItem):
        return _operand(graph, expr.tuple_value, names)[int(expr.index)]
    if isinstance(expr, relax.Call):
        raise NotExpressible("nested calls in an NPU region; normalise it first")
    return ""


def emit_outputs(
    graph: OnnxGraph, result: relax.Expr, names: dict[relax.Var, Operand]
) -> list[onnx.ValueInfoProto]:
    """Give every result its own `outN`: a tensor may be returned twice, or be an input."""
    is_tuple = isinstance(result.ty, relax.TupleType)
    sources = _operand(graph, result, names)
    types = list(result.ty.fields) if is_tuple else [result.ty]
    outputs = []
    renamed: dict[str, str] = {}
    for index, (source, ty) in enumerate(
        zip(sources if is_tuple else [sources], types, strict=True)
    ):
        if not isinstance(ty, relax.TensorType):
            raise NotExpressible("an NPU region returns tensors, not nested tuples")
        graph.name_output(renamed.get(source, source), f"out{index}")
        renamed.setdefault(source, f"out{index}")
        outputs.append(value_info(f"out{index}", ty))
    return outputs


def value_info(name: str, ty: relax.TensorType) -> onnx.ValueInfoProto:
    """An input or output of the model."""
    return helper.make_tensor_value_info(name, element_type(str(ty.dtype)), shape_of_type(ty))
