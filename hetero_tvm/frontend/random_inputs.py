"""Random inputs that a model can make sense of, from how its graph uses them.

| the input is ...                                            | values                          |
|-------------------------------------------------------------|---------------------------------|
| floating point                                              | standard normal                 |
| an index into a table (`Gather`, `OneHot`, ...)             | 0 .. size of the smallest table |
| compared for equality with constants                        | one of these constants          |
| uint8 or int8 (pictures, quantised data)                    | the whole range                 |
| any other integer, or bool: a mask                          | 0 or 1, at least one 1 per row  |

An input is followed through operators that keep its values (casts, reshapes, slices, joins). The
first row of the table that fits any of its uses decides, in the order index, equality, rest.
Ranges are plain data, so that an artefact can carry them and draw inputs without the model.

Requires: a static graph as `fold_model` leaves it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx

from hetero_tvm.frontend.tensor_spec import TensorSpec

Kind = Literal["normal", "index", "choice", "full", "mask"]

# Operators whose (first) input's values reach the output unchanged.
_CARRIERS = frozenset(
    """
    Cast Identity Reshape Squeeze Unsqueeze Flatten Transpose Expand Tile Slice Split Concat
    """.split()
)
# Operators whose input 0 is a table and input 1 holds indices into one axis of it.
_LOOKUPS = frozenset(("Gather", "GatherElements"))
_LONGEST_CHOICE = 4096
_NO_CONSTANTS: Mapping[str, np.ndarray] = {}


@dataclass(frozen=True, kw_only=True)
class InputRange:
    """From which values one input is drawn."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: Kind
    size: int = 0  # kind "index": values lie in 0 .. size - 1
    values: tuple[int, ...] = ()  # kind "choice"


def random_inputs(model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    """Inputs for a folded model; the same seed gives the same arrays."""
    return draw_inputs(input_ranges(model), seed)


def draw_inputs(ranges: tuple[InputRange, ...], seed: int) -> dict[str, np.ndarray]:
    """One array per range; an input's values depend on the seed and its position only."""
    return {
        entry.name: _draw(entry, np.random.default_rng([seed, position]))
        for position, entry in enumerate(ranges)
    }


def ranges_at(
    ranges: Sequence[InputRange], axes: Mapping[str, Sequence[int]], size: int
) -> tuple[InputRange, ...]:
    """The ranges with `size` on the axes of each input that `axes` names."""
    return tuple(
        replace(
            entry,
            shape=tuple(
                size if axis in axes.get(entry.name, ()) else dim
                for axis, dim in enumerate(entry.shape)
            ),
        )
        for entry in ranges
    )


def _draw(entry: InputRange, rng: np.random.Generator) -> np.ndarray:
    dtype = np.dtype(entry.dtype)
    if entry.kind == "normal":
        return np.asarray(rng.standard_normal(entry.shape), dtype=dtype)
    if entry.kind == "index":
        return np.asarray(rng.integers(0, entry.size, entry.shape), dtype=dtype)
    if entry.kind == "choice":
        return np.asarray(rng.choice(np.array(entry.values), entry.shape), dtype=dtype)
    if entry.kind == "full":
        limits = np.iinfo(dtype)
        return np.asarray(rng.integers(limits.min, limits.max + 1, entry.shape), dtype=dtype)
    return _mask(entry.shape, dtype, rng)


def _mask(shape: tuple[int, ...], dtype: np.dtype, rng: np.random.Generator) -> np.ndarray:
    bits = np.asarray(rng.integers(0, 2, shape))
    if bits.ndim == 0:
        return np.asarray(1, dtype=dtype)
    # A row without a single 1 would make a softmax over it, or a mean, meaningless.
    bits[..., 0] |= bits.sum(axis=-1) == 0
    return bits.astype(dtype)


def input_ranges(
    model: onnx.ModelProto,
    dropped: Sequence[onnx.NodeProto] = (),
    dropped_constants: Mapping[str, np.ndarray] = _NO_CONSTANTS,
) -> tuple[InputRange, ...]:
    """What each input of a folded model may hold; the module's docstring gives the rules.

    `dropped` are nodes that folding removed and that still say what an input means.
    """
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in [*model.graph.node, *dropped]:
        for position, name in enumerate(node.input):
            readers[name].append((node, position))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, array in dropped_constants.items():
        constants.setdefault(name, onnx.numpy_helper.from_array(array, name))
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in [*model.graph.input, *model.graph.value_info, *model.graph.output]
    }
    shapes |= {name: tuple(tensor.dims) for name, tensor in constants.items()}
    finder = _UseFinder(readers, constants, shapes)
    result = []
    for value in model.graph.input:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        spec = TensorSpec(name=value.name, dtype=dtype, shape=shapes[value.name])
        result.append(finder.range_of(spec))
    return tuple(result)


@dataclass(frozen=True)
class _UseFinder:
    readers: dict[str, list[tuple[onnx.NodeProto, int]]]
    constants: dict[str, onnx.TensorProto]
    shapes: dict[str, tuple[int, ...]]

    def range_of(self, spec: TensorSpec) -> InputRange:
        base = InputRange(name=spec.name, dtype=spec.dtype, shape=spec.shape, kind="normal")
        if np.dtype(spec.dtype).kind not in "iub":
            return base
        tables: list[int] = []
        choices: set[int] = set()
        self._follow(spec.name, tables, choices, set())
        if tables:
            return replace(base, kind="index", size=min(tables))
        if choices:
            return replace(base, kind="choice", values=tuple(sorted(choices)))
        if spec.dtype in ("uint8", "int8"):
            return replace(base, kind="full")
        return replace(base, kind="mask")

    def _follow(self, name: str, tables: list[int], choices: set[int], seen: set[str]) -> None:
        """Collect sizes of tables that `name` indexes, and constants that it is compared with."""
        if name in seen:
            return
        seen.add(name)
        for node, position in self.readers[name]:
            table = self._table_size(node, position, name)
            if table is not None:
                tables.append(table)
            elif node.op_type == "Equal":
                choices.update(self._constants_of(node.input[1 - position]))
            elif node.op_type in _CARRIERS or (node.op_type == "Gather" and position == 0):
                for output in node.output:
                    self._follow(output, tables, choices, seen)

    def _table_size(self, node: onnx.NodeProto, position: int, name: str) -> int | None:
        """How many indices are valid, when `node` takes `name` as indices."""
        if node.op_type in _LOOKUPS and position == 1:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            shape = self.shapes.get(node.input[0], ())
            return shape[axis] if -len(shape) <= axis < len(shape) else None
        if node.op_type == "GatherND" and position == 1:
            indexed = self.shapes.get(node.input[0], ())[: (self.shapes.get(name) or (0,))[-1]]
            return min(indexed, default=None)
        if node.op_type == "OneHot" and position == 0:
            known = self._constants_of(node.input[1])
            return known[0] if known else None
        return None

    def _constants_of(self, name: str) -> list[int]:
        """The different values of a constant, none when it is not one."""
        tensor = self.constants.get(name)
        if tensor is None:
            return []
        values = np.unique(onnx.numpy_helper.to_array(tensor))[:_LONGEST_CHOICE]
        return [int(value) for value in values]
