"""Weights in a few bits: blocks along the depth, each with a scale and maybe a zero point.

    w[n, k]  ~  scale[n, k / group] * (code[n, k] - zero[n, k / group])

in the form of ONNX Runtime's `MatMulNBits`. For each block the range of codes is tried in several
widths, from the whole range of its values down to `_NARROWEST` of it, and the one with the least
squared error is kept: a few values cut off cost less than a coarse step for all.
"""

from __future__ import annotations

import dataclasses

import numpy as np

_NARROWEST = 0.7
_WIDTHS = 7
_CHUNK_VALUES = 1 << 22  # of the weight, that are worked on at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How one weight is stored."""

    bits: int = 4
    group: int = 32  # neighbours along the depth that share a scale
    symmetric: bool = False  # the zero point is the middle code, and is not stored

    def __post_init__(self) -> None:
        """Raise ValueError for what `MatMulNBits` does not have."""
        if self.bits not in (4, 8):
            raise ValueError(f"bits {self.bits}: 4 or 8")
        if self.group not in (16, 32, 64, 128, 256):
            raise ValueError(f"group {self.group}: 16, 32, 64, 128 or 256")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Blocks:
    """A weight [N, K] as stored."""

    packed: np.ndarray  # [N, blocks, group * bits / 8] uint8, the code of the lower k lowest
    scales: np.ndarray  # [N, blocks] float32 or float16
    zeros: np.ndarray | None  # [N, ceil(blocks * bits / 8)] uint8; None: the middle code
    squared_error: float  # summed over all values
    squared: float  # sum of the squared weights
    largest_error: float

    @property
    def relative_error(self) -> float:
        """Root of the mean squared error, over that of the weights."""
        return (self.squared_error / self.squared) ** 0.5 if self.squared else 0.0

    @property
    def nbytes(self) -> int:
        """Of all parts."""
        return sum(p.nbytes for p in (self.packed, self.scales, self.zeros) if p is not None)


def quantize(weight: np.ndarray, settings: Settings) -> Blocks:
    """Quantise `weight` [N, K], float32 or float16; scales have its type.

    Raises:
        ValueError: a value is not finite.
    """
    columns, depth = weight.shape
    step = max(1, _CHUNK_VALUES // max(1, depth))
    parts = [_quantize(weight[n : n + step], settings) for n in range(0, columns, step)]
    zeros = [part.zeros for part in parts if part.zeros is not None]
    return Blocks(
        packed=np.concatenate([part.packed for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        zeros=np.concatenate(zeros) if zeros else None,
        squared_error=sum(part.squared_error for part in parts),
        squared=sum(part.squared for part in parts),
        largest_error=max(part.largest_error for part in parts),
    )


def _quantize(weight: np.ndarray, settings: Settings) -> Blocks:
    columns, depth = weight.shape
    group, most = settings.group, (1 << settings.bits) - 1
    blocks = -(-depth // group)
    values = np.zeros((columns, blocks * group), np.float32)
    values[:, :depth] = weight
    if not np.isfinite(values).all():
        raise ValueError("a weight is not finite")
    values = values.reshape(columns, blocks, group)
    low = np.minimum(values.min(axis=2), 0)
    high = np.maximum(values.max(axis=2), 0)
    best = np.full((columns, blocks), np.inf)
    scales = np.ones((columns, blocks), weight.dtype)
    zeros = np.full((columns, blocks), (most + 1) // 2, np.uint8)
    codes = np.empty(values.shape, np.uint8)
    for width in np.linspace(1.0, _NARROWEST, _WIDTHS, dtype=np.float32):
        scale, zero = _range(low * width, high * width, settings, weight.dtype)
        code = np.rint(values / scale.astype(np.float32)[..., None]) + zero[..., None]
        np.clip(code, 0, most, out=code)
        error = _errors(values, code, scale, zero)
        squared = np.square(error, dtype=np.float64).sum(axis=2)
        better = squared < best
        best[better], scales[better], zeros[better] = squared[better], scale[better], zero[better]
        codes[better] = code[better].astype(np.uint8)
    largest = float(np.abs(_errors(values, codes, scales, zeros)).max(initial=0))
    return Blocks(
        packed=_pack(codes, settings.bits),
        scales=scales,
        zeros=None if settings.symmetric else _pack(zeros, settings.bits),
        squared_error=float(best.sum()),
        squared=float(np.square(values, dtype=np.float64).sum()),
        largest_error=largest,
    )


def _range(
    low: np.ndarray, high: np.ndarray, settings: Settings, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Scale, rounded to its storage, and zero point of the range [low, high]."""
    most = (1 << settings.bits) - 1
    middle = (most + 1) // 2
    if settings.symmetric:
        scale = np.maximum(-low / middle, high / (most - middle))
    else:
        scale = (high - low) / most
    scale = scale.astype(dtype)
    scale = np.where(scale == 0, np.array(1, dtype), scale)  # nothing but zeros, or nearly
    if settings.symmetric:
        return scale, np.full(scale.shape, middle, np.uint8)
    zero = np.clip(np.rint(-low / scale.astype(np.float32)), 0, most)
    return scale, zero.astype(np.uint8)


def _errors(
    values: np.ndarray, codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray
) -> np.ndarray:
    stored = (codes.astype(np.float32) - zeros[..., None]) * scales.astype(np.float32)[..., None]
    return values - stored


def _pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes along the last axis, two in a byte where they are of four bits."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), np.uint8)], axis=-1)
    return codes[..., ::2] | (codes[..., 1::2] << 4)
