"""Which axes of an operator's result can be computed in two parts, and what each part reads.

One rule per operator family answers: to compute elements [a, b) of axis `axis` of the result,
which axis of each tensor argument must be cut alike, and which argument is read whole?

    matmul [.., M, K] x [K, N]    rows:    (.., M) of the left side,  the right side whole
                                  columns: the left side whole,       (N) of the right side

Windows that overlap (a convolution's rows) are read from a stretch of rows that is no part of any
cut: to a plan such an argument is read whole, and `argument_rows` says which rows each part needs.

Cuts move through an operator that only renames (`reshape`, `permute_dims`), so that a chain of
operators can stay cut without being put together in between. The idea is that of sharding
propagation (Xu et al., "GSPMD", arXiv 2105.04663), for two devices and uneven parts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tvm import relax
from tvm.ir import GenericConst

from relay_passes.attention import ATTENTION, AttentionAttrs, attention
from relay_passes.op_work import Work, dtype_bytes, op_name, static_shape, tensor_args
from relay_passes.planner.problem import Cut, Kind
from relay_passes.windows import Window, row_window, with_row_padding


@dataclasses.dataclass(frozen=True)
class Sharding:
    """One axis along which an operator can be cut."""

    axis: int  # of the result
    reads: tuple[int | None, ...]  # for each of `tensor_args`: the axis cut alike, None: whole
    kind: Kind = "activation"  # "weight": a constant operand is cut, the activation is not
    window: Window | None = None  # over the first argument, of which each part reads a stretch


def shardings(call: relax.Call) -> tuple[Sharding, ...]:
    """Every way to cut `call`; none for operators without a rule."""
    shape = _shape(call)
    if shape is None or any(_shape(arg) is None for arg in tensor_args(call)):
        return ()
    if any(isinstance(a.ty, relax.TupleType) and not isinstance(a, relax.Tuple) for a in call.args):
        return ()  # tensors that `tensor_args` does not see
    rule = _RULES.get(op_name(call))
    return tuple(rule(call, shape)) if rule else ()


def argument_cut(call: relax.Call, sharding: Sharding, cut: Cut, index: int) -> Cut | None:
    """How tensor argument `index` is cut when the result is cut at `cut`; None: read whole.

    Raises:
        ValueError: the boundary falls between no two elements of the argument (`fits` says so).
    """
    axis = sharding.reads[index]
    if axis is None:
        return None
    shape = _known(list(tensor_args(call))[index])
    extent = shape[axis]
    if (cut.at * extent) % cut.extent:
        raise ValueError(f"{op_name(call)}: no boundary of argument {index} at {cut}")
    return Cut(axis, cut.at * extent // cut.extent, extent)


def argument_rows(
    sharding: Sharding, cut: Cut, device: str, index: int
) -> tuple[int, int, int] | None:
    """What `device`'s part reads of an argument that is cut nowhere: (axis, first, one past).

    None: all of it, or its part of a cut (`argument_cut`).
    """
    window = sharding.window
    if window is None or index != 0:
        return None
    return window.axis, *window.rows(*cut.of(device))


def fits(call: relax.Call, sharding: Sharding, cut: Cut) -> bool:
    """Whether every argument that is cut has a boundary there, and both parts read something."""
    args = list(tensor_args(call))
    return (sharding.window is None or sharding.window.fits(cut)) and all(
        axis is None or (cut.at * _known(args[i])[axis]) % cut.extent == 0
        for i, axis in enumerate(sharding.reads)
    )


def is_contiguous(shape: Sequence[int], axis: int) -> bool:
    """Whether the two parts of a cut along `axis` are two blocks of the tensor's memory."""
    return math.prod(shape[:axis]) == 1


def shard_work(call: relax.Call, work: Work, sharding: Sharding, cut: Cut, device: str) -> Work:
    """The work of one device's part.

    What is read whole costs its bytes on either device.
    """
    begin, end = cut.of(device)
    share = (end - begin) / cut.extent
    weights = activations = 0.0
    for i, (arg, axis) in enumerate(zip(tensor_args(call), sharding.reads, strict=True)):
        nbytes = _nbytes(arg) * (1.0 if axis is None else share)
        rows = argument_rows(sharding, cut, device, i)
        if rows is not None:
            nbytes *= (rows[2] - rows[1]) / _known(arg)[rows[0]]
        if isinstance(arg, GenericConst):
            weights += nbytes
        else:
            activations += nbytes
    if op_name(call) == "relax.take":  # reads what it picks, not the table
        weights, activations = 0.0, (work.bytes - work.output_bytes) * share
    output = round(work.output_bytes * share)
    columns = work.kind != "vector" and sharding.axis == len(_known(call)) - 1
    changes: dict[str, Any] = {
        "macs": round(work.macs * share),
        "bytes": round(weights + activations) + output,
        "weight_bytes": round(weights),
        "output_bytes": output,
        "score_bytes": round(work.score_bytes * share),
    }
    if sharding.kind == "weight" or columns:
        if getattr(work, "columns", 0):
            changes["columns"] = max(1, round(work.columns * share))
    elif work.kind in ("matmul", "conv") or not _is_batch_axis(call, sharding):
        changes["rows"] = max(1, round(work.rows * share))
    return dataclasses.replace(work, **changes)


def shard_call(
    call: relax.Call, sharding: Sharding, cut: Cut, device: str, args: Sequence[relax.Expr]
) -> relax.Call:
    """`call` for one device's part.

    Args:
        call: the whole operator.
        sharding: one of `shardings(call)`.
        cut: of its result along `sharding.axis`.
        device: whose part.
        args: in place of `tensor_args(call)`, those that are cut already in parts, those that are
            read through a window as `argument_rows`.
    """
    fresh = iter(args)

    def rebuild(arg: relax.Expr) -> relax.Expr:
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([rebuild(field) for field in arg.fields])
        if isinstance(arg.ty, relax.TensorType):
            return next(fresh)
        return arg

    rebuilt = [rebuild(arg) for arg in call.args]
    if sharding.window is not None:
        return with_row_padding(call, rebuilt, sharding.window.padding(*cut.of(device)))
    if op_name(call) == ATTENTION:
        attrs = AttentionAttrs.of(call)
        attrs = dataclasses.replace(attrs, first=attrs.first + cut.of(device)[0])
        query, keys, values, past = rebuilt
        return attention(query, keys, values, past, attrs)
    if op_name(call) in _WITH_SHAPE:  # the result's shape is an argument
        begin, end = cut.of(device)
        shape = list(_known(call))
        shape[cut.axis] = end - begin
        rebuilt[1] = relax.ShapeExpr(shape)
    if op_name(call) == "relax.squeeze":  # a part of one element keeps its axis
        (data,) = tensor_args(call)
        axes = call.attrs.axis
        ones = [axis for axis, extent in enumerate(_known(data)) if extent == 1]
        return relax.op.squeeze(rebuilt[0], ones if axes is None else [int(a) for a in axes])
    return relax.Call(call.op, rebuilt, call.attrs, call.ty_args)


# --- rules: (call, shape of the result) -> shardings ---------------------------------------------

Rule = Callable[[relax.Call, tuple[int, ...]], Iterator[Sharding]]


def _axes(shape: tuple[int, ...]) -> Iterator[int]:
    """Axes that have two elements to divide."""
    return (axis for axis, extent in enumerate(shape) if extent > 1)


def _broadcast(arg: relax.Expr, shape: tuple[int, ...], axis: int) -> int | None:
    """The axis of an operand that broadcasts to `shape`, None where it repeats along it."""
    own = _known(arg)
    mine = axis - (len(shape) - len(own))
    return mine if mine >= 0 and own[mine] == shape[axis] else None


def _elementwise(call: relax.Call, shape: tuple[int, ...]) -> Iterator[Sharding]:
    for axis in _axes(shape):
        yield Sharding(axis, tuple(_broadcast(arg, shape, axis) for arg in tensor_args(call)))


def _matmul(call: relax.Call, shape: tuple[int, ...]) -> Iterator[Sharding]:
    left, right = call.args
    sides = len(_known(left)), len(_known(right))
    if min(sides) < 2:
        return
    last = len(shape) - 1
    for axis in _axes(shape):
        if axis == last:
            kind: Kind = "weight" if isinstance(right, GenericConst) else "activation"
            yield Sharding(axis, (None, sides[1] - 1), kind)
        elif axis == last - 1:
            kind = "weight" if isinstance(left, GenericConst) else "activation"
            yield Sharding(axis, (sides[0] - 2, None), kind)
        else:
            yield Sharding(axis, (_broadcast(left, shape, axis), _broadcast(right, shape, axis)))


def _conv2d(call: relax.Call, shape: tuple[int, ...]) -> Iterator[Sharding]:
    weight = call.args[1]
    layout, kernel = str(call.attrs.data_layout), str(call.attrs.kernel_layout)
    out_layout = str(call.attrs.out_layout) or layout
    outputs, groups = kernel.index("O"), int(call.attrs.groups)
    channel = out_layout.index("C")
    if shape[channel] > 1 and groups == 1 and isinstance(weight, GenericConst):
        yield Sharding(channel, (None, outputs), "weight")
    batch = out_layout.index("N")
    if shape[batch] > 1:
        yield Sharding(batch, (layout.index("N"), None))
    yield from _rows(call, shape, out_layout.index("H"))


def _rows(call: relax.Call, shape: tuple[int, ...], axis: int) -> Iterator[Sharding]:
    """Rows of an image: cut alike where windows lie side by side, else read with a halo."""
    window = row_window(call)
    if window is None or shape[axis] < 2:
        return
    others = [None] * (len(list(tensor_args(call))) - 1)
    if window.is_alike(shape[axis]):
        yield Sharding(axis, (window.axis, *others))
    else:
        yield Sharding(axis, (None, *others), window=window)


def _permute(call: relax.Call, shape: tuple[int, ...]) -> Iterator[Sharding]:
    axes = call.attrs.axes
    order = (
        list(reversed(range(len(shape)))) if axes is None else [int(a) % len(shape) for a in axes]
    )
    for axis in _axes(shape):
        yield Sharding(axis, (order[axis],))


def _reshape(call: relax.Call, shape: tuple[int, ...]) -> Iterator[Sharding]:
    (data, *_) = tensor_args(call)
    before = _known(data)
    for axis in _axes(shape):
        outer = math.prod(shape[:axis])
        for mine in _axes(before):
            if math.prod(before[:mine]) == outer:
                yield Sharding(axis, (mine,))
                break


def _along_rows(call: relax.Call, shape: tuple[int, ...]) -> Iterator[Sharding]:
    """Norms and softmax: any axis that they do not run over; further arguments are whole."""
    attrs = call.attrs
    over = attrs.axes if hasattr(attrs, "axes") else [attrs.axis]
    taken = {int(axis) % len(shape) for axis in over}
    count = len(list(tensor_args(call)))
    for axis in _axes(shape):
        if axis not in taken:
            yield Sharding(axis, (axis, *[None] * (count - 1)))


def _reduce(call: relax.Call, shape: tuple[int, ...]) -> Iterator[Sharding]:
    (data,) = tensor_args(call)
    rank = len(_known(data))
    axes = call.attrs.axis
    if axes is None:
        return
    taken = {int(a) % rank for a in axes}
    kept = [a for a in range(rank) if a not in taken]
    for axis in _axes(shape):
        yield Sharding(axis, (axis if call.attrs.keepdims else kept[axis],))


def _take(call: relax.Call, shape: tuple[int, ...]) -> Iterator[Sharding]:
    data, indices = tensor_args(call)
    if call.attrs.axis is None:
        return
    first = int(call.attrs.axis) % len(_known(data))
    count = len(_known(indices))
    for axis in _axes(shape):
        if first <= axis < first + count:
            yield Sharding(axis, (None, axis - first))


def _strided_slice(call: relax.Call, shape: tuple[int, ...]) -> Iterator[Sharding]:
    """Any axis that is not sliced: the heads of a packed product, say, cut by rows."""
    sliced = {int(axis.value) % len(shape) for axis in call.args[1].fields}
    for axis in _axes(shape):
        if axis not in sliced:
            yield Sharding(axis, (axis,))


def _concat(call: relax.Call, shape: tuple[int, ...]) -> Iterator[Sharding]:
    joined = int(call.attrs.axis or 0) % len(shape)
    count = len(list(tensor_args(call)))
    for axis in _axes(shape):
        if axis != joined:
            yield Sharding(axis, (axis,) * count)


def _cached_attention(call: relax.Call, shape: tuple[int, ...]) -> Iterator[Sharding]:
    """Rows: each part reads the caches, which the other one's rows are in too."""
    if shape[1] > 1:
        yield Sharding(1, (2, None, None, None))


def _windows(call: relax.Call, shape: tuple[int, ...]) -> Iterator[Sharding]:
    """Pooling: every channel and image on its own, and rows."""
    layout = str(call.attrs.layout)
    out = str(getattr(call.attrs, "out_layout", "")) or layout
    if layout != out:
        return
    for axis in _axes(shape):
        if out[axis] in "NC":
            yield Sharding(axis, (axis,))
        elif out[axis] == "H":
            yield from _rows(call, shape, axis)


ELEMENTWISE = """
    abs acos acosh asin asinh atan atanh bitwise_not ceil clip cos cosh erf exp floor isfinite isinf
    isnan log logical_not negative round rsqrt sigmoid sign sin sinh sqrt square tan tanh trunc
    add bitwise_and bitwise_or bitwise_xor divide equal floor_divide floor_mod greater greater_equal
    less less_equal logical_and logical_or logical_xor maximum minimum mod multiply not_equal power
    subtract astype where broadcast_to
    nn.relu nn.relu6 nn.leakyrelu nn.gelu nn.gelu_tanh nn.selu nn.silu nn.softplus
""".split()

_RULES: dict[str, Rule] = {
    **{f"relax.{name}": _elementwise for name in ELEMENTWISE},
    **{f"relax.{name}": _reshape for name in ("reshape", "flatten", "squeeze", "expand_dims")},
    **{
        f"relax.nn.{name}": _along_rows
        for name in ("softmax", "log_softmax", "layer_norm", "rms_norm")
    },
    **{f"relax.{name}": _reduce for name in ("max", "mean", "min", "sum")},
    **{f"relax.nn.{name}": _windows for name in ("max_pool2d", "avg_pool2d")},
    "relax.matmul": _matmul,
    "relax.nn.conv2d": _conv2d,
    "relax.permute_dims": _permute,
    "relax.take": _take,
    "relax.concat": _concat,
    "relax.strided_slice": _strided_slice,
    ATTENTION: _cached_attention,
}
_WITH_SHAPE = frozenset(("relax.reshape", "relax.broadcast_to"))


# --- shapes --------------------------------------------------------------------------------------


def _shape(expr: relax.Expr) -> tuple[int, ...] | None:
    return static_shape(expr.ty)


def _known(expr: relax.Expr) -> tuple[int, ...]:
    shape = _shape(expr)
    assert shape is not None
    return shape


def _nbytes(expr: relax.Expr) -> int:
    return math.prod(_known(expr)) * dtype_bytes(str(expr.ty.dtype))


def _is_batch_axis(call: relax.Call, sharding: Sharding) -> bool:
    return sharding.axis < len(_known(call)) - 2
