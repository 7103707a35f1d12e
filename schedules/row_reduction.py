"""Softmax, norms and reductions over the last axes, for devices whose work-item is a core.

A row is summed in `lanes` columns side by side, then the columns are added up; what does not
fill a vector is a short loop of its own. So rows of any length run as whole vectors, and nothing
depends on the compiler's leave to reorder a float sum. Sums are float32 for float16 tensors.

Devices that run work-items in lockstep keep TVM's expressions and its cross-item reductions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from tvm import relax, s_tir, te, tirx

from schedules.blocks import extent, is_reduction
from schedules.conditions import is_bool
from schedules.layout import (
    Legalize,
    accumulator_dtype,
    default_legalize,
    ravel,
    static_shape,
    unravel,
)
from schedules.rule import Rule
from target_specs.spec import GpuSpec

# Annotation of a block over one row; the value is the number of lanes.
ROW_ATTR = "hetero.row_lanes"
# FuseOps may put element-wise producers in front of a function of this pattern.
_COMM_REDUCE = 3
# A longer row is not kept between two passes over it, but computed again.
_KEPT_ROW_MAX = 4096

RowValue = Callable[[tirx.Expr, tirx.Expr], tirx.Expr]  # (row, column) -> value


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Monoid:
    """An associative operation on one tensor's values."""

    reduce: Callable[..., tirx.Expr]
    join: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]


_SUM = _Monoid(reduce=te.sum, join=lambda a, b: a + b)
_MAX = _Monoid(reduce=te.max, join=te.max)
_MIN = _Monoid(reduce=te.min, join=te.min)


class _Rows:
    """Tensor expressions over `rows` rows of `length` values."""

    def __init__(self, rows: int, length: int, lanes: int) -> None:
        self.rows = rows
        self.length = length
        while lanes > 1 and lanes > length:
            lanes //= 2
        self.lanes = lanes
        self.attrs = {ROW_ATTR: lanes}

    def reduce(self, monoid: _Monoid, value: RowValue, name: str) -> RowValue:
        """The reduction of every row, as a function of `(row, any column)`."""
        strips, rest = divmod(self.length, self.lanes)
        strip = te.reduce_axis((0, strips), name="strip")
        lane = te.reduce_axis((0, self.lanes), name="lane")
        columns = te.compute(
            (self.rows, self.lanes),
            lambda r, i: monoid.reduce(value(r, strip * self.lanes + i), axis=strip),
            name=f"{name}_lanes",
            attrs=self.attrs,
        )
        whole = te.compute(
            (self.rows,),
            lambda r: monoid.reduce(columns[r, lane], axis=lane),
            name=name,
            attrs=self.attrs,
        )
        if rest == 0:
            return lambda r, _c: whole[r]
        last = te.reduce_axis((0, rest), name="last")
        tail = te.compute(
            (self.rows,),
            lambda r: monoid.reduce(value(r, strips * self.lanes + last), axis=last),
            name=f"{name}_rest",
            attrs=self.attrs,
        )
        return lambda r, _c: monoid.join(whole[r], tail[r])

    def keep(self, value: RowValue, name: str) -> RowValue:
        """`value`, stored once per row if that fits."""
        if self.length > _KEPT_ROW_MAX:
            return value
        kept = te.compute((self.rows, self.length), value, name=name, attrs=self.attrs)
        return lambda r, c: kept[r, c]


def legalize_softmax(gpu: GpuSpec) -> Legalize:
    """`relax.nn.softmax` over the last axis."""

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        shape = static_shape(call) or ()
        if not shape or int(call.attrs.axis) % len(shape) != len(shape) - 1:
            return default_legalize("relax.nn.softmax")(builder, call)

        def compute(data: te.Tensor) -> te.Tensor:
            rows = _Rows(math.prod(shape[:-1]), shape[-1], gpu.vector_width)
            wide = accumulator_dtype(str(data.dtype))
            value = _row_value(data, 1, wide)
            highest = rows.reduce(_MAX, value, "highest")
            power = rows.keep(lambda r, c: te.exp(value(r, c) - highest(r, c)), "power")
            total = rows.reduce(_SUM, power, "total")
            return _result(shape, 1, data.dtype, rows, lambda r, c: power(r, c) / total(r, c))

        return _call_te(builder, compute, call.args[:1], "softmax")

    return legalize


def legalize_layer_norm(gpu: GpuSpec) -> Legalize:
    """`relax.nn.layer_norm` over the last axes, scaled and shifted."""

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        shape, attrs = static_shape(call) or (), call.attrs
        count = _trailing(attrs.axes, len(shape)) if shape else 0
        if not count or not (attrs.center and attrs.scale):
            return default_legalize("relax.nn.layer_norm")(builder, call)
        length = math.prod(shape[-count:])
        epsilon = float(attrs.epsilon)

        def compute(data: te.Tensor, gamma: te.Tensor, beta: te.Tensor) -> te.Tensor:
            rows = _Rows(math.prod(shape[:-count]), length, gpu.vector_width)
            wide = accumulator_dtype(str(data.dtype))
            value = _row_value(data, count, wide)
            total = rows.reduce(_SUM, value, "total")

            def centred(r: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
                return value(r, c) - total(r, c) / tirx.const(length, wide)

            squares = rows.reduce(_SUM, lambda r, c: centred(r, c) * centred(r, c), "squares")

            def body(r: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
                variance = squares(r, c) / tirx.const(length, wide)
                scale = 1 / te.sqrt(variance + tirx.const(epsilon, wide))
                at = unravel(c, shape[-count:])
                return centred(r, c) * scale * gamma(*at).astype(wide) + beta(*at).astype(wide)

            return _result(shape, count, data.dtype, rows, body)

        return _call_te(builder, compute, call.args, "layer_norm")

    return legalize


def legalize_rms_norm(gpu: GpuSpec) -> Legalize:
    """`relax.nn.rms_norm` over the last axes, scaled."""

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        shape, attrs = static_shape(call) or (), call.attrs
        count = _trailing(attrs.axes, len(shape)) if shape else 0
        if not count:
            return default_legalize("relax.nn.rms_norm")(builder, call)
        length = math.prod(shape[-count:])
        epsilon = float(attrs.epsilon)

        def compute(data: te.Tensor, gain: te.Tensor) -> te.Tensor:
            rows = _Rows(math.prod(shape[:-count]), length, gpu.vector_width)
            wide = accumulator_dtype(str(data.dtype))
            value = _row_value(data, count, wide)
            squares = rows.reduce(_SUM, lambda r, c: value(r, c) * value(r, c), "squares")

            def body(r: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
                mean = squares(r, c) / tirx.const(length, wide)
                scale = 1 / te.sqrt(mean + tirx.const(epsilon, wide))
                return value(r, c) * scale * gain(*unravel(c, shape[-count:])).astype(wide)

            return _result(shape, count, data.dtype, rows, body)

        return _call_te(builder, compute, call.args, "rms_norm")

    return legalize


def legalize_reduce(gpu: GpuSpec, op: str) -> Legalize:
    """`relax.sum`, `mean`, `max`, `min` over the last axes."""
    monoid = {"relax.max": _MAX, "relax.min": _MIN}.get(op, _SUM)
    is_mean = op == "relax.mean"

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        shape, out_shape = static_shape(call.args[0]) or (), static_shape(call) or ()
        dtype = str(call.ty.dtype)
        count = _trailing(call.attrs.axis, len(shape)) if shape else 0
        rows = 0 if not count else math.prod(shape[:-count])
        if not rows or dtype not in ("float32", "float16"):
            return default_legalize(op)(builder, call)
        length = math.prod(shape[-count:])

        def compute(data: te.Tensor) -> te.Tensor:
            over = _Rows(rows, length, gpu.vector_width)
            wide = accumulator_dtype(dtype)
            result = over.reduce(monoid, _row_value(data, count, wide), "reduced")
            factor = tirx.const(1.0 / length, wide) if is_mean else None

            def body(*index: tirx.Var) -> tirx.Expr:
                value = result(ravel(index, out_shape), 0)
                return (value if factor is None else value * factor).astype(dtype)

            return te.compute(out_shape, body, name="result", attrs=over.attrs)

        return _call_te(builder, compute, call.args, "reduce")

    return legalize


class RowReduction(Rule):
    """One work-item per row; every pass over the row as whole vectors."""

    kind: ClassVar[str] = "opencl"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        """None where no block is marked as working on a row."""
        sch = s_tir.Schedule(func)
        blocks = sch.get_child_blocks(sch.get_sblock("root"))
        if not any(ROW_ATTR in sch.get(block).annotations for block in blocks):
            return None
        schedule_rows(sch, _alone)
        return sch


def _alone(sch: s_tir.Schedule, row: Any) -> Any:
    """Every row is a group of one item."""
    sch.bind(row, "blockIdx.x")
    return row


def schedule_rows(sch: s_tir.Schedule, bind: Callable[[s_tir.Schedule, Any], Any]) -> None:
    """Schedule a function of marked blocks.

    Args:
        sch: the schedule.
        bind: makes groups and items of the loop over all rows; gives the loop of which each step is
            one row.

    Raises:
        ScheduleError: the function is not of rows alone.
    """
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    marked = [block for block in blocks if ROW_ATTR in sch.get(block).annotations]
    # 1. Element-wise blocks around the row are computed where they are used.
    names = {sch.get(block).name_hint for block in marked}
    others = [block for block in blocks if sch.get(block).name_hint not in names]
    if any(is_reduction(sch, block) or not sch.get_consumers(block) for block in others):
        raise s_tir.ScheduleError("a block that is not of a row reduces, or is a result")
    for block in others:
        sch.compute_inline(block)
    # 2. The final block's rows are the work-items.
    *stages, final = marked
    lanes = int(sch.get(final).annotations[ROW_ATTR])
    loops = sch.get_loops(final)
    rows = _row_loops(sch, stages[0], loops)
    row = bind(sch, sch.fuse(*loops[:rows]) if rows > 1 else loops[0])
    for stage in reversed(stages):
        sch.set_scope(stage, 0, "local")
        sch.compute_at(stage, row, preserve_unit_loops=True)
    # 3. Vectors.
    for stage in (*stages, final):
        _vectorize(sch, stage, row, lanes)


def _row_loops(sch: s_tir.Schedule, stage: Any, loops: list[Any]) -> int:
    """How many of the final block's loops count the rows that `stage` works on."""
    rows = int(sch.get(stage).iter_vars[0].dom.extent)
    product = 1
    for count, loop in enumerate(loops, start=1):
        product *= extent(sch, loop)
        if product == rows:
            return count
    raise s_tir.ScheduleError("the result's leading axes are not the rows")


def _vectorize(sch: s_tir.Schedule, block: Any, row: Any, lanes: int) -> None:
    """The loops of `block` inside `row`: lanes become vectors, reductions get their start value."""
    sch.unannotate(block, ROW_ATTR)
    loops = sch.get_loops(block)
    depth = next(n for n, loop in enumerate(loops) if sch.get(loop).same_as(sch.get(row)))
    inner = [loop for loop in loops[depth + 1 :]]
    if is_reduction(sch, block):
        _vectorize_reduction(sch, block, inner, lanes)
        return
    inner = [loop for loop in inner if extent(sch, loop) > 1]
    if not inner or is_bool(sch.get(block).writes[0].source):
        return
    column = sch.fuse(*inner) if len(inner) > 1 else inner[0]
    length = extent(sch, column)
    whole = length // lanes * lanes
    if whole in (0, length) or lanes == 1:
        _, lane = sch.split(column, [None, math.gcd(length, lanes)])
        sch.vectorize(lane)
        return
    main, _ = sch.loop_partition(column, [whole, None])
    _, lane = sch.split(main, [None, lanes])
    sch.vectorize(lane)


def _vectorize_reduction(sch: s_tir.Schedule, block: Any, inner: list[Any], lanes: int) -> None:
    kinds = [int(var.iter_type) for var in sch.get(block).iter_vars]
    reduced, lane = inner[-1], None
    if len(kinds) == 3:  # row, lane, strip
        lane, reduced = inner[-2], inner[-1]
        sch.reorder(reduced, lane)
        if lanes > 1:
            sch.vectorize(lane)
    sch.decompose_reduction(block, reduced)


def _trailing(axes: Sequence[Any] | None, rank: int) -> int:
    """How many last axes `axes` are; 0 where they are not the last ones, or all of them."""
    if axes is None:
        return 0
    values = sorted(int(axis) % rank for axis in axes)
    count = len(values)
    return count if values == list(range(rank - count, rank)) and count < rank else 0


def _row_value(data: te.Tensor, count: int, dtype: str) -> RowValue:
    """`data` as rows over its last `count` axes, in `dtype`."""
    shape = [int(n) for n in data.shape]
    leading, trailing = shape[:-count], shape[-count:]
    return lambda r, c: data(*unravel(r, leading), *unravel(c, trailing)).astype(dtype)


def _result(
    shape: tuple[int, ...], count: int, dtype: Any, rows: _Rows, value: RowValue
) -> te.Tensor:
    """The output tensor, back in the input's shape and type."""

    def body(*index: tirx.Var) -> tirx.Expr:
        row = ravel(index[:-count], shape[:-count])
        return value(row, ravel(index[-count:], shape[-count:])).astype(dtype)

    return te.compute(shape, body, name="result", attrs=rows.attrs)


def _call_te(
    builder: relax.BlockBuilder, compute: Callable[..., te.Tensor], args: Any, name: str
) -> relax.Call:
    return builder.call_te(
        compute, *args, primfunc_name_hint=name, primfunc_attrs={"op_pattern": _COMM_REDUCE}
    )
