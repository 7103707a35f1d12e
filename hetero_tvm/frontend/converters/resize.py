"""`Resize` and `Upsample`.

Both are separable: along each axis an output is a look-up (nearest) or a weighted sum of a few
inputs. The weights are worked out here from the ONNX definition; where Relax's `resize2d` has the
same weights it is used, because devices know it, else the axis becomes a `take` or a `matmul` with
the matrix of weights. So every mode is right, and the usual ones are fast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax

from hetero_tvm.frontend.converters.context import Conversion, Converter

op = relax.op

_CUBIC_TAPS = 4
# Coordinate modes that Relax's `resize2d` shares, for scales that are ratios of sizes.
_SHARED_MODES = ("half_pixel", "align_corners", "asymmetric")
_MAX_TABLE = 1 << 26  # indices or weights of one axis, in elements


@dataclass(frozen=True, kw_only=True)
class _Settings:
    mode: str
    coordinates: str
    rounding: str
    cubic_a: float
    exclude_outside: bool


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """One axis to be resized."""

    index: int
    size: int
    target: int
    scale: float


def _settings(c: Conversion) -> _Settings:
    old = c.node.op == "Upsample" or c.node.opset < 11
    mode = c.node.attr("mode", "nearest")
    return _Settings(
        mode="linear" if mode == "bilinear" else mode,
        coordinates=c.node.attr(
            "coordinate_transformation_mode", "asymmetric" if old else "half_pixel"
        ),
        rounding=c.node.attr("nearest_mode", "floor" if old else "round_prefer_floor"),
        cubic_a=c.node.attr("cubic_coeff_a", -0.75),
        exclude_outside=bool(c.node.attr("exclude_outside", 0)),
    )


def _axes(c: Conversion) -> list[_Axis]:
    """The axes whose size changes, or whose scale is not one."""
    shape, target = c.node.shape(0), c.out.shape
    chosen = c.node.ints("axes", len(c.node.proto.input)) or list(range(len(shape)))
    scales = _given_scales(c)
    axes = []
    for place, axis in enumerate(chosen):
        axis %= len(shape)
        scale = float(scales[place]) if scales is not None else target[axis] / shape[axis]
        if scale != 1 or shape[axis] != target[axis]:
            axes.append(_Axis(index=axis, size=shape[axis], target=target[axis], scale=scale))
    if scales is None and c.node.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise c.unsupported("keep_aspect_ratio_policy is not covered")
    return axes


def _given_scales(c: Conversion) -> np.ndarray | None:
    """The scales as written in the model; `None` when sizes are written instead."""
    value = c.node.attr("scales")
    if value is not None:
        return np.asarray(value)
    position = 2 if c.node.op == "Resize" and c.node.opset >= 11 else 1
    known = c.node.const(position)
    return known if known is not None and known.size else None


def _positions(axis: _Axis, settings: _Settings) -> np.ndarray:
    """Where each output lies on the input axis; float32, as ONNX Runtime computes it."""
    place = np.arange(axis.target, dtype=np.float32)
    scale, half = np.float32(axis.scale), np.float32(0.5)
    mode = settings.coordinates
    if mode == "asymmetric":
        return place / scale
    if mode == "align_corners":
        last = max(axis.target - 1, 1)
        return place * np.float32(axis.size - 1) / np.float32(last)
    if mode == "tf_half_pixel_for_nn":
        return (place + half) / scale
    centred = (place + half) / scale - half
    if mode == "pytorch_half_pixel":
        return centred if axis.target > 1 else np.zeros_like(place)
    if mode == "half_pixel_symmetric":
        adjustment = np.float32(axis.target) / (scale * np.float32(axis.size))
        return np.float32(axis.size / 2) * (1 - adjustment) + centred
    return centred


def _nearest(axis: _Axis, settings: _Settings) -> np.ndarray:
    place = _positions(axis, settings)
    half = np.float32(0.5)
    rounded = {
        "floor": np.floor(place),
        "ceil": np.ceil(place),
        "round_prefer_ceil": np.floor(place + half),
        "round_prefer_floor": np.ceil(place - half),
    }
    return np.clip(rounded[settings.rounding], 0, axis.size - 1).astype(np.int64)


def _weights(axis: _Axis, settings: _Settings) -> np.ndarray:
    """The matrix [target, size] that resizes one axis."""
    place = _positions(axis, settings).astype(np.float64)
    matrix = np.zeros((axis.target, axis.size))
    rows = np.arange(axis.target)
    if settings.mode == "linear":
        place = np.clip(place, 0, axis.size - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, axis.size - 1)
        np.add.at(matrix, (rows, low), 1 - (place - low))
        np.add.at(matrix, (rows, high), place - low)
        return matrix
    base = np.floor(place).astype(int)
    taps = []
    for tap in range(_CUBIC_TAPS):
        column = base - 1 + tap
        weight = _cubic(np.abs(place - column), settings.cubic_a)
        inside = (column >= 0) & (column < axis.size)
        taps.append((column, np.where(inside | (not settings.exclude_outside), weight, 0)))
    total = sum(weight for _column, weight in taps)
    for column, weight in taps:
        np.add.at(matrix, (rows, np.clip(column, 0, axis.size - 1)), weight / total)
    return matrix


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _resize(c: Conversion) -> relax.Expr:
    settings = _settings(c)
    if settings.coordinates == "tf_crop_and_resize":
        raise c.unsupported("cropping by a region of interest is not covered")
    if c.node.attr("antialias", 0):
        raise c.unsupported("antialias is not covered")
    axes = _axes(c)
    if not axes:
        return c.x()
    for axis in axes:
        width = 1 if settings.mode == "nearest" else axis.size
        if axis.target * width > _MAX_TABLE:
            raise c.unsupported(f"resizing {axis.size} to {axis.target} takes too large a table")
    known = _as_resize2d(c, axes, settings)
    if known is not None:
        return known
    result = c.x()
    for axis in axes:
        if settings.mode == "nearest":
            index = c.array(_nearest(axis, settings), "int64")
            result = c.emit(op.take(result, index, axis=axis.index, mode="clip"))
        else:
            result = _interpolate(c, result, axis, _weights(axis, settings))
    return result


def _interpolate(c: Conversion, x: relax.Expr, axis: _Axis, weights: np.ndarray) -> relax.Expr:
    """The product with `weights` along `axis`."""
    rank = len(c.out.shape)
    matrix = c.array(weights.T, c.out.dtype)
    if axis.index == rank - 1:
        return c.emit(op.matmul(x, matrix))
    perm = list(range(rank))
    perm[axis.index], perm[-1] = perm[-1], perm[axis.index]
    product = c.emit(op.matmul(c.emit(op.permute_dims(x, perm)), matrix))
    return c.emit(op.permute_dims(product, perm))


def _as_resize2d(c: Conversion, axes: list[_Axis], settings: _Settings) -> relax.Expr | None:
    """Relax's own operator when it computes the same, else `None`."""
    if len(c.out.shape) != 4 or any(axis.index < 2 for axis in axes):
        return None
    size = c.out.shape[2:]
    if settings.mode == "nearest":
        # Every way of rounding agrees with this one when the factor is whole.
        for axis in axes:
            plain = np.arange(axis.target) * axis.size // axis.target
            if not np.array_equal(plain, _nearest(axis, settings)):
                return None
        return op.image.resize2d(
            c.x(),
            size,
            layout="NCHW",
            method="nearest_neighbor",
            coordinate_transformation_mode="asymmetric",
            rounding_method="floor",
        )
    ratio = all(abs(axis.scale - axis.target / axis.size) < 1e-6 for axis in axes)
    one_pixel = any(axis.target == 1 for axis in axes)
    mode = settings.coordinates
    if mode == "pytorch_half_pixel" and not one_pixel:
        mode = "half_pixel"
    if not ratio or one_pixel or mode not in _SHARED_MODES or settings.exclude_outside:
        return None
    return op.image.resize2d(
        c.x(),
        size,
        layout="NCHW",
        method=settings.mode,
        coordinate_transformation_mode=mode,
        cubic_alpha=settings.cubic_a,
    )


CONVERTERS: dict[str, Converter] = {"Resize": _resize, "Upsample": _resize}
