"""Where the new tokens of a step stand, in each of the ways that exporters say it.

    position_ids                  an input: it is computed, from `PAST`
    Range(P, P + S)               P: rows of a cache input, `Shape(past_key_values.0.key)[2]`
    Range(0, S) + P               the same

Our caches are as long as they will ever be, so the length of one says nothing of where a token
stands: without this, a model of the latter kinds would turn every token by the same angles.

A model may also choose by the length, `If(Greater(total, N))`: onnxruntime-genai's longrope turns
all tokens by other angles beyond N. What lies in a cache was turned by the first ones, and a
step of fixed shapes knows no total; up to N positions there is no choice to make.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hetero_tvm.errors import UnsupportedModel
from hetero_tvm.frontend.llm_nodes import PAST, PLACES

_POSITIONS = "position_ids"
_ROWS_AXIS = 2  # of a cache [1, heads, rows, depth]
_SAME_NUMBER = frozenset("Cast Identity Squeeze Unsqueeze Reshape".split())
_LONGEST_PATH = 16  # nodes that keep a number in a row; exporters write two or three

_BOUNDS = {"Greater": 0, "LessOrEqual": 0, "GreaterOrEqual": -1, "Less": -1}


def check_no_choice_by_length(graph: onnx.GraphProto, capacity: int) -> None:
    """Refuse caches in which sequences may be longer than where the graph changes what it does.

    Args:
        graph: the model's, with its own inputs.
        capacity: positions of a cache.

    Raises:
        UnsupportedModel: a branch is chosen by a length within the capacity.
    """
    makers = {name: node for node in graph.node for name in node.output if name}
    numbers = _numbers(graph)
    for node in graph.node:
        test = makers.get(node.input[0]) if node.op_type == "If" and node.input else None
        if test is None or test.op_type not in _BOUNDS or len(test.input) != 2:
            continue
        length, bound = test.input
        if bound not in numbers or not _is_length(length, makers):
            continue
        most = numbers[bound] + _BOUNDS[test.op_type]
        if 0 < most < capacity:
            raise UnsupportedModel(
                f"node {node.name!r} (If): beyond {most} tokens in all this model computes "
                "otherwise (longrope), which does not suit a cache that lives on; build it with "
                f"--context {most}"
            )


def _is_length(name: str, makers: Mapping[str, onnx.NodeProto]) -> bool:
    """Does `name` come, from one node to the next, from the mask or the positions?"""
    for _ in range(_LONGEST_PATH):
        if name in ("attention_mask", _POSITIONS):
            return True
        node = makers.get(name)
        if node is None or not node.input:
            return False
        name = node.input[0]
    return False


def set_positions(
    graph: onnx.GraphProto, caches: Collection[str], rows: int, capacity: int
) -> None:
    """Add `PLACES`, made from the graph's input `PAST`, and let positions be those.

    None lies behind the cache: only rows that fill a chunk up would, and nobody reads those.

    Args:
        graph: a step; changed.
        caches: names of its cache inputs.
        rows: its new tokens, S.
        capacity: positions of a cache.
    """
    consts = {"steps": np.arange(rows), "top": np.int64(capacity - 1), "shape": [1, rows]}
    names = {part: f"{PLACES}/{part}" for part in (*consts, "wide", "open")}
    for part, value in consts.items():
        array = np.asarray(value, np.int64)
        graph.initializer.append(numpy_helper.from_array(array, names[part]))
    wide, places = names["wide"], names["open"]
    nodes = [
        helper.make_node("Cast", [PAST], [wide], name=wide, to=TensorProto.INT64),
        helper.make_node("Add", [wide, names["steps"]], [places], name=places),
        helper.make_node("Min", [places, names["top"]], [PLACES], name=PLACES),
    ]
    given = [value for value in graph.input if value.name == _POSITIONS]
    if given:
        graph.input.remove(given[0])
        nodes.append(
            helper.make_node("Reshape", [PLACES, names["shape"]], [_POSITIONS], name=_POSITIONS)
        )
    if not any(_POSITIONS in node.input for node in graph.node):
        _replace_counted(graph, frozenset(caches))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _replace_counted(graph: onnx.GraphProto, caches: Collection[str]) -> None:
    """What counts on from the rows of a cache becomes a copy of `PLACES`."""
    makers = {name: node for node in graph.node for name in node.output if name}
    numbers = _numbers(graph)

    def is_past(name: str) -> bool:
        return _is_past(name, makers, numbers, caches)

    for node in graph.node:
        if node.op_type == "Range" and len(node.input) == 3:
            start, limit, step = node.input
            end = _behind(limit, makers)
            found = (
                numbers.get(step) == 1
                and is_past(start)
                and end is not None
                and end.op_type == "Add"
                and any(map(is_past, end.input))
            )
        elif node.op_type == "Add":
            counted = [_behind(name, makers) for name in node.input]
            found = any(
                steps is not None
                and steps.op_type == "Range"
                and len(steps.input) == 3
                and [numbers.get(steps.input[0]), numbers.get(steps.input[2])] == [0, 1]
                and is_past(other)
                for steps, other in zip(counted, reversed(node.input), strict=True)
            )
        else:
            continue
        if found:
            node.CopyFrom(helper.make_node("Identity", [PLACES], list(node.output), name=node.name))


def _numbers(graph: onnx.GraphProto) -> dict[str, int]:
    """Constants of one whole number, by name."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {
        name: int(numpy_helper.to_array(tensor).reshape(-1)[0])
        for name, tensor in tensors.items()
        if tensor.data_type in (TensorProto.INT32, TensorProto.INT64)
        and not tensor.external_data
        and np.prod(tensor.dims, dtype=np.int64) == 1
    }


def _behind(name: str, makers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The node that `name` comes from, through what keeps its number."""
    for _ in range(_LONGEST_PATH):
        node = makers.get(name)
        if node is None or node.op_type not in _SAME_NUMBER:
            return node
        name = node.input[0]
    return None


def _is_past(
    name: str,
    makers: Mapping[str, onnx.NodeProto],
    numbers: Mapping[str, int],
    caches: Collection[str],
) -> bool:
    """Is `name` the number of rows of a cache input?"""
    node = _behind(name, makers)
    if node is None:
        return False
    if node.op_type in ("Gather", "Slice"):
        shape = makers.get(node.input[0])
        whole = shape is not None and not shape.attribute
        picked = [numbers.get(name) for name in node.input[1:3]]
        one = [_ROWS_AXIS] if node.op_type == "Gather" else [_ROWS_AXIS, _ROWS_AXIS + 1]
        return whole and picked == one and _is_shape_of(shape, caches)
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return bounds == {"start": _ROWS_AXIS, "end": _ROWS_AXIS + 1} and _is_shape_of(node, caches)


def _is_shape_of(node: onnx.NodeProto | None, caches: Collection[str]) -> bool:
    return node is not None and node.op_type == "Shape" and node.input[0] in caches
