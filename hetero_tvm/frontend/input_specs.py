"""The `--input` flag, and the shapes it fixes in a model.

    --input NAME=DIMS[:DTYPE]      input_ids=1x128:int64    x=1x3x320x320    sr=scalar

A dimension is *free* when the model gives it a name, a question mark, nothing, or a literal 0 or
-1 (exporters write all of these). Free dimensions that share a name share their value, so one
flag often fixes several inputs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from hetero_tvm.errors import WrongInputShapes
from hetero_tvm.frontend.node_view import COMPUTED_DTYPES
from hetero_tvm.frontend.tensor_spec import TensorSpec

MAX_ELEMENTS = 2**31 - 1  # index arithmetic in kernels is 32-bit
_SCALAR_WORDS = ("", "scalar")
_DIMS = re.compile(r"\d+(x\d+)*")


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What the user said about one input; `dtype` is only checked, never converted."""

    name: str
    shape: tuple[int, ...]
    dtype: str | None = None


InputShape = InputSpec | Sequence[int]


def parse_input_flag(text: str) -> InputSpec:
    """Read `NAME=DIMS[:DTYPE]`; a scalar is `NAME=scalar` or `NAME=`."""
    name, equals, rest = text.rpartition("=")
    if not equals or not name:
        raise WrongInputShapes(
            f"--input {text}: write NAME=DIMS[:DTYPE], for example input_ids=1x128:int64"
        )
    dims, _, dtype = rest.partition(":")
    dims = dims.strip()
    if dims not in _SCALAR_WORDS and not _DIMS.fullmatch(dims):
        raise WrongInputShapes(
            f"--input {text}: {dims!r} is no shape; write the dimensions as whole numbers with 'x' "
            "between them (1x3x320x320), or 'scalar'"
        )
    shape = () if dims in _SCALAR_WORDS else tuple(int(dim) for dim in dims.split("x"))
    return InputSpec(name=name, shape=shape, dtype=dtype.strip() or None)


def fix_input_shapes(
    model: onnx.ModelProto, given: Mapping[str, InputShape]
) -> tuple[TensorSpec, ...]:
    """The model's inputs with every dimension fixed, in the model's order.

    Ensures: all that is missing or wrong is in one `BadInput`, with the flags to type.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    wanted = {name: _as_spec(name, spec) for name, spec in given.items()}
    _check_names(inputs, wanted)
    known_dims = _dims_by_name(inputs, wanted)
    problems: list[str] = []
    open_flags: list[str] = []
    guesses: dict[str, int] = {}
    specs = []
    for value in inputs:
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            problems.append(f"input {value.name!r} is not a tensor; only tensors can be fed")
            continue
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        if dtype not in COMPUTED_DTYPES:
            kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
            problems.append(
                f"input {value.name!r} is of type {kind}, which no device computes with"
            )
            continue
        spec = wanted.get(value.name)
        problems += _mismatches(value, dtype, spec)
        shape = spec.shape if spec else _declared_shape(value, known_dims)
        if shape is None:
            open_flags.append(_flag(value, known_dims, guesses, dtype))
            problems.append(_open_dims(value, known_dims))
            continue
        count = 1
        for dim in shape:
            count *= dim
        if count > MAX_ELEMENTS or count < 1:
            problems.append(f"input {value.name!r} of shape {list(shape)} has {count} elements")
        specs.append(TensorSpec(name=value.name, dtype=dtype, shape=tuple(shape)))
    if problems:
        hint = f"; for example: {' '.join(filter(None, open_flags))}" if open_flags else ""
        raise WrongInputShapes("; ".join(problems) + hint)
    return tuple(specs)


def _as_spec(name: str, spec: InputShape) -> InputSpec:
    if isinstance(spec, InputSpec):
        return spec
    return InputSpec(name=name, shape=tuple(int(dim) for dim in spec))


def _check_names(inputs: list[onnx.ValueInfoProto], wanted: Mapping[str, InputSpec]) -> None:
    names = [value.name for value in inputs]
    unknown = [name for name in wanted if name not in names]
    if not unknown:
        return
    parts = []
    for name in unknown:
        near = difflib.get_close_matches(name, names, n=1)
        parts.append(f"no input {name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    raise WrongInputShapes(
        f"{'; '.join(parts)}; the model's inputs are: {', '.join(map(describe, inputs))}"
    )


def describe(value: onnx.ValueInfoProto) -> str:
    """An input or output as the model declares it, e.g. `x [batch, 3, ?, ?] float32`."""
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    if not tensor.HasField("shape"):
        return f"{value.name} [any rank] {dtype}"
    return f"{value.name} [{', '.join(_dim_text(dim) for dim in tensor.shape.dim)}] {dtype}"


def _dim_text(dim: onnx.TensorShapeProto.Dimension) -> str:
    if dim.dim_value > 0:
        return str(dim.dim_value)
    return dim.dim_param or "?"


def _fixed(dim: onnx.TensorShapeProto.Dimension, known: Mapping[str, int]) -> int | None:
    if dim.dim_value > 0:
        return dim.dim_value
    return known.get(dim.dim_param) if dim.dim_param not in ("", "?") else None


def _dims_by_name(
    inputs: list[onnx.ValueInfoProto], wanted: Mapping[str, InputSpec]
) -> dict[str, int]:
    """Values of the named dimensions, from the inputs that the user fixed."""
    known: dict[str, int] = {}
    for value in inputs:
        spec = wanted.get(value.name)
        dims = value.type.tensor_type.shape.dim
        if spec is None or len(dims) != len(spec.shape):
            continue
        for dim, size in zip(dims, spec.shape, strict=True):
            if dim.dim_param not in ("", "?") and dim.dim_value <= 0:
                known.setdefault(dim.dim_param, size)
    return known


def _declared_shape(value: onnx.ValueInfoProto, known: Mapping[str, int]) -> tuple[int, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    dims = [_fixed(dim, known) for dim in tensor.shape.dim]
    return None if None in dims else tuple(dim for dim in dims if dim is not None)


def _mismatches(value: onnx.ValueInfoProto, dtype: str, spec: InputSpec | None) -> list[str]:
    if spec is None:
        return []
    problems = []
    if spec.dtype is not None and spec.dtype != dtype:
        problems.append(f"input {value.name!r} is {dtype} in the model, not {spec.dtype}")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return problems
    dims = tensor.shape.dim
    shape_text = f"{list(spec.shape)} does not fit the model's {describe(value)}"
    if len(dims) != len(spec.shape):
        problems.append(f"input {value.name!r}: {shape_text} (rank {len(dims)})")
        return problems
    for index, (dim, size) in enumerate(zip(dims, spec.shape, strict=True)):
        if dim.dim_value > 0 and dim.dim_value != size:
            problems.append(f"input {value.name!r}: {shape_text} (dimension {index})")
    return problems


def _open_dims(value: onnx.ValueInfoProto, known: Mapping[str, int]) -> str:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return f"input {value.name!r} has no fixed rank"
    free = [
        f"dimension {index}" + (f" ({dim.dim_param!r})" if dim.dim_param else "")
        for index, dim in enumerate(tensor.shape.dim)
        if _fixed(dim, known) is None
    ]
    return f"input {value.name!r} leaves {', '.join(free)} open"


def _flag(
    value: onnx.ValueInfoProto, known: Mapping[str, int], guesses: dict[str, int], dtype: str
) -> str:
    """A flag that would fix `value`, with plausible numbers in the open places.

    Empty when the flags before it have guessed all of its dimensions; new guesses are noted.
    """
    dims = value.type.tensor_type.shape.dim
    usual = 224 if len(dims) == 4 else 128
    sizes, fresh = [], not dims
    for index, dim in enumerate(dims):
        size = _fixed(dim, {**guesses, **known})
        if size is None:
            fresh = True
            size = 1 if index == 0 else usual
            if dim.dim_param not in ("", "?"):
                guesses[dim.dim_param] = size
        sizes.append(size)
    return f"--input {value.name}={'x'.join(map(str, sizes or [1]))}:{dtype}" if fresh else ""
