"""Operators that move values about without computing: reshapes, slices, joins, look-ups."""

from __future__ import annotations

import numpy as np
from tvm import relax

from hetero_tvm.frontend.converters.context import Conversion, Converter, static_shape

op = relax.op


def _reshape(c: Conversion) -> relax.Expr:
    return c.reshape(c.x(), c.out.shape)


def _transpose(c: Conversion) -> relax.Expr:
    rank = len(c.out.shape)
    return op.permute_dims(c.x(), [int(axis) for axis in c.node.attr("perm", range(rank)[::-1])])


def _concat(c: Conversion) -> relax.Expr:
    values = [c.x(i) for i in range(len(c.node.proto.input)) if 0 not in c.node.shape(i)]
    if len(values) == 1:
        return values[0]
    return op.concat(values, axis=c.node.attr("axis") % len(c.out.shape))


def _expand(c: Conversion) -> relax.Expr:
    return op.broadcast_to(c.x(), c.out.shape)


def _tile(c: Conversion) -> relax.Expr:
    repeats = [int(o) // int(i) for o, i in zip(c.out.shape, c.node.shape(0), strict=True)]
    return op.tile(c.x(), repeats)


def take_range(c: Conversion, x: relax.Expr, axis: int, begin: int, end: int) -> relax.Expr:
    """`x[begin:end]` along `axis`, both in range; `x` itself when that is all of it."""
    if begin == 0 and isinstance(x, relax.Var) and static_shape(x)[axis] == end:
        return x
    return op.strided_slice(x, [axis], [begin], [end], [1])


def _slice(c: Conversion) -> relax.Expr:
    shape = c.node.shape(0)
    rank = len(shape)
    starts, ends = c.node.ints("starts", 1), c.node.ints("ends", 2)
    if starts is None or ends is None:
        raise c.unsupported("its bounds are computed from an input's values")
    axes = c.node.ints("axes", 3) or list(range(len(starts)))
    steps = c.node.ints("steps", 4) or [1] * len(starts)
    result = c.x()
    forward: dict[int, tuple[int, int, int]] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= rank
        begin, stop, stride = slice(start, end, step).indices(shape[axis])
        picked = range(begin, stop, stride)
        if stride < 0:
            index = c.array(list(picked), "int64")
            result = c.emit(op.take(result, index, axis=axis, mode="clip"))
        elif (begin, max(stop, begin), stride) != (0, shape[axis], 1):
            forward[axis] = (begin, max(stop, begin), stride)
    if not forward:
        return result
    order = sorted(forward)
    begins, stops, strides = zip(*(forward[axis] for axis in order), strict=True)
    return op.strided_slice(result, order, list(begins), list(stops), list(strides))


def _split(c: Conversion) -> list[relax.Expr]:
    axis = c.node.attr("axis", 0) % len(c.node.shape(0))
    results, begin = [], 0
    for name in c.node.proto.output:
        size = c.node.types[name].shape[axis]
        results.append(take_range(c, c.x(), axis, begin, begin + size))
        begin += size
    return results


def _gather(c: Conversion) -> relax.Expr:
    """A slice for known neighbouring indices, else `take`.

    Unknown indices may be negative; `wrap` reads them as ONNX does and never leaves the table.
    """
    shape = c.node.shape(0)
    axis = c.node.attr("axis", 0) % len(shape)
    known = c.node.const(1)
    if known is None:
        return op.take(c.x(0), c.x(1), axis=axis, mode="wrap")
    index = np.where(known < 0, known + shape[axis], known)
    if index.size and (index.min() < 0 or index.max() >= shape[axis]):
        raise c.unsupported(f"index {int(known.min())} is outside the axis of {shape[axis]}")
    flat = index.reshape(-1)
    if index.ndim <= 1 and flat.size and np.array_equal(flat, np.arange(flat.size) + flat[0]):
        begin = int(flat[0])
        part = take_range(c, c.x(0), axis, begin, begin + flat.size)
        part = part if isinstance(part, relax.Var) else c.emit(part)
        return c.reshape(part, c.out.shape)
    return op.take(c.x(0), c.array(index, known.dtype.name), axis=axis, mode="clip")


def _one_hot(c: Conversion) -> relax.Expr:
    """Inputs: indices, depth, and the values `[off, on]`."""
    rank = len(c.out.shape)
    axis = c.node.attr("axis", -1) % rank
    depth = c.out.shape[axis]
    places = c.reshape(c.x(0), (*c.node.shape(0)[:axis], 1, *c.node.shape(0)[axis:]))
    dtype = c.node.dtype(0)
    negative = c.emit(op.less(places, c.scalar(0)))
    wrapped = c.emit(op.where(negative, c.emit(op.add(places, c.scalar(depth))), places))
    line = np.arange(depth).reshape([-1 if a == axis else 1 for a in range(rank)])
    chosen = c.emit(op.equal(wrapped, c.array(line, dtype)))
    known = c.node.const(2)
    if known is None:
        raise c.unsupported("its values are not constants")
    return op.where(chosen, c.array(known[1]), c.array(known[0]))


def _pad(c: Conversion) -> relax.Expr:
    shape = c.node.shape(0)
    rank = len(shape)
    pads = c.node.ints("pads", 1)
    if pads is None:
        raise c.unsupported("its padding is computed from an input's values")
    axes = c.node.ints("axes", 3) or list(range(rank))
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis % rank], after[axis % rank] = pads[place], pads[place + len(axes)]
    mode = c.node.attr("mode", "constant")
    result = c.x()
    sizes = c.out.shape
    if any(max(w) > size for *w, size in zip(before, after, sizes, strict=True)):
        raise c.unsupported("it cuts off more than there is")
    if mode != "constant":
        return _pad_by_index(c, result, before, after, mode)
    if min(before + after) < 0:
        cut = [axis for axis in range(rank) if before[axis] < 0 or after[axis] < 0]
        begins = [max(-before[axis], 0) for axis in cut]
        ends = [shape[axis] - max(-after[axis], 0) for axis in cut]
        result = c.emit(op.strided_slice(result, cut, begins, ends, [1] * len(cut)))
    widths = [max(w, 0) for pair in zip(before, after, strict=True) for w in pair]
    if not any(widths):
        return result
    fill = c.node.attr("value", 0.0)
    if c.node.has(2):
        known = c.node.const(2)
        if known is None:
            raise c.unsupported("its fill value is computed from an input's values")
        fill = known.reshape(-1)[0]
    if np.dtype(c.out.dtype).kind != "f":
        return _pad_integers(c, result, before, after, int(fill))
    return op.nn.pad(result, widths, "constant", float(fill))


def _pad_integers(
    c: Conversion, x: relax.Expr, before: list[int], after: list[int], fill: int
) -> relax.Expr:
    """`nn.pad` keeps its fill value as a float; whole numbers are joined on instead."""
    shape = list(c.node.shape(0))
    shape = [s + min(b, 0) + min(a, 0) for s, b, a in zip(shape, before, after, strict=True)]
    result = x
    for axis, (low, high) in enumerate(zip(before, after, strict=True)):
        parts = []
        for width in (low, high):
            block = [*shape[:axis], max(width, 0), *shape[axis + 1 :]]
            part = op.full(block, relax.const(fill, c.out.dtype), c.out.dtype)
            parts.append(c.emit(part) if width > 0 else None)
        joined = [part for part in (parts[0], result, parts[1]) if part is not None]
        if len(joined) > 1:
            result = c.emit(op.concat(joined, axis=axis))
        shape[axis] += max(low, 0) + max(high, 0)
    return result


def _pad_by_index(
    c: Conversion, x: relax.Expr, before: list[int], after: list[int], mode: str
) -> relax.Expr:
    """`reflect`, `edge` and `wrap` are look-ups at indices that are known."""
    for axis, size in enumerate(c.node.shape(0)):
        if not before[axis] and not after[axis]:
            continue
        place = np.arange(-before[axis], size + after[axis])
        if mode == "edge":
            place = np.clip(place, 0, size - 1)
        elif mode == "wrap":
            place = place % size
        elif mode == "reflect" and size > 1:
            turn = 2 * (size - 1)
            place = np.abs(place) % turn
            place = np.where(place >= size, turn - place, place)
        else:
            raise c.unsupported(f"padding mode {mode!r} on an axis of {size}")
        x = c.emit(op.take(x, c.array(place, "int64"), axis=axis, mode="clip"))
    return x


def _depth_to_space(c: Conversion) -> relax.Expr:
    n, channels, height, width = c.node.shape(0)
    block = c.node.attr("blocksize")
    small = channels // block**2
    if c.node.attr("mode", "DCR") == "DCR":
        shape, perm = (n, block, block, small, height, width), [0, 3, 4, 1, 5, 2]
    else:
        shape, perm = (n, small, block, block, height, width), [0, 1, 4, 2, 5, 3]
    split = c.reshape(c.x(), shape)
    return c.reshape(c.emit(op.permute_dims(split, perm)), c.out.shape)


def _space_to_depth(c: Conversion) -> relax.Expr:
    n, channels, height, width = c.node.shape(0)
    block = c.node.attr("blocksize")
    split = c.reshape(c.x(), (n, channels, height // block, block, width // block, block))
    order = [0, 3, 5, 1, 2, 4] if c.node.attr("mode", "DCR") == "DCR" else [0, 1, 3, 5, 2, 4]
    return c.reshape(c.emit(op.permute_dims(split, order)), c.out.shape)


CONVERTERS: dict[str, Converter] = {
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Concat": _concat,
    "Expand": _expand,
    "Tile": _tile,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "OneHot": _one_hot,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
