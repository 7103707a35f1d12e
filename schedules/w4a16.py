"""Products with a weight of four bits, dequantised inside the kernel: W4A16.

    y[.., n] = sum over k of  x[.., k] * scale[k / group, n] * (code[k, n] - zero[k / group, n])

The weight is read once, as it is stored: eight codes along the depth are one 32-bit word, and words
lie in panels as a float weight does (`layout.pack_panels`), so a work-item reads whole vectors of
words. Scale and zero point are applied once for each word and not for each code:

    scale * (sum of x * code  -  zero * sum of x)          the sums run over the eight codes

A code is taken out of its word by a mask alone: its float value is then 16^i times too large, which
x makes up for, exactly, as a power of two. Sums are float32 whatever x is.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from tvm import relax, te, tirx

from schedules.cache_block import blocked
from schedules.gemv import split_depth_tile
from schedules.layout import CONTRACTION_ATTRS, known_shape, pack_panels, unravel
from schedules.register_tile import RegisterTile, choose_tile, contraction
from target_specs.spec import GpuSpec

CODES_PER_WORD = 8
# The zero point of symmetric weights, in whose place exporters store none.
SYMMETRIC_ZERO = 8
# That an item reads at a step where a group shares the depth: eight values of x serve them all.
_VECTORS = 2


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class W4Weight:
    """A weight [K, N] as codes with a scale, and maybe a zero point, for each group of a column."""

    codes: np.ndarray  # [K, N] uint8, 0 to 15
    scales: np.ndarray  # [ceil(K / group), N] float16 or float32
    zeros: np.ndarray | None  # [ceil(K / group), N], whole numbers or not; None: 8 everywhere
    group: int  # neighbours along K that share a scale

    def __post_init__(self) -> None:
        """Raise ValueError where the parts do not fit together or no kernel could take them."""
        depth, columns = self.codes.shape
        if depth % CODES_PER_WORD or self.group % CODES_PER_WORD or self.group <= 0:
            raise ValueError(
                f"a 4-bit weight of depth {depth} in groups of {self.group}: both must be "
                f"multiples of {CODES_PER_WORD}; keep this weight in float16"
            )
        if int(self.codes.max(initial=0)) > 15:
            raise ValueError(f"codes of a 4-bit weight go up to {int(self.codes.max())}, not 15")
        shape = (-(-depth // self.group), columns)
        for name, part in (("scales", self.scales), ("zeros", self.zeros)):
            if part is not None and part.shape != shape:
                raise ValueError(f"{name} of a 4-bit weight are {part.shape}, must be {shape}")

    @staticmethod
    def from_blocks(
        packed: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, depth: int
    ) -> W4Weight:
        """From the form of ONNX's `com.microsoft.MatMulNBits` with `bits=4`.

        Args:
            packed: [N, blocks, block / 2] uint8, the code of the lower k in the low half.
            scales: [N, blocks] or flat, float16 or float32.
            zeros: [N, ceil(blocks / 2)] or flat uint8, two in a byte, the first one low; or one
                number each, of a float type, in the shape of `scales`; None for 8.
            depth: K; codes past it are dropped.

        Raises ValueError as the class does.
        """
        columns, blocks, half = packed.shape
        codes = _nibbles(packed.reshape(columns, -1))[:, :depth]
        if zeros is not None and zeros.dtype == np.uint8:
            zeros = _nibbles(zeros.reshape(columns, -1))[:, :blocks]
        elif zeros is not None:
            zeros = zeros.reshape(columns, blocks)
        return W4Weight(
            codes=np.ascontiguousarray(codes.T),
            scales=np.ascontiguousarray(scales.reshape(columns, blocks).T),
            zeros=None if zeros is None else np.ascontiguousarray(zeros.T),
            group=2 * half,
        )

    def dequantised(self) -> np.ndarray:
        """The weight in float64, [K, N]."""
        depth = len(self.codes)
        zeros = SYMMETRIC_ZERO if self.zeros is None else self._spread(self.zeros)[:depth]
        return (self.codes - np.float64(zeros)) * self._spread(self.scales)[:depth]

    def _spread(self, parts: np.ndarray) -> np.ndarray:
        """[groups, N] -> [groups * group, N] float64."""
        return np.repeat(parts.astype(np.float64), self.group, axis=0)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class W4Panels:
    """A `W4Weight` as the kernel reads it; N' is N filled up to whole panels with zeros."""

    words: np.ndarray  # [N' / panel, K / 8, panel] uint32, the code of the lowest k lowest
    scales: np.ndarray  # [N' / panel, groups, panel] float16 or float32
    zeros: np.ndarray | None  # likewise, float16 or float32

    def arrays(self) -> list[np.ndarray]:
        """Words, scales and, where there are any, zeros: the kernel's arguments."""
        return [part for part in (self.words, self.scales, self.zeros) if part is not None]


def pack_w4(weight: W4Weight, panel: int) -> W4Panels:
    """Pack `weight` into strips of `panel` columns."""
    columns = weight.codes.shape[1]
    codes = weight.codes.reshape(-1, CODES_PER_WORD, columns).astype(np.uint32)
    shifts = np.arange(0, 4 * CODES_PER_WORD, 4, dtype=np.uint32)
    words = np.bitwise_or.reduce(codes << shifts[:, None], axis=1)  # [K / 8, N]
    zeros = weight.zeros
    if zeros is not None:
        # Whole zero points are exact in either type; others keep theirs.
        zeros = zeros.astype(weight.scales.dtype if zeros.dtype == np.uint8 else zeros.dtype)
    return W4Panels(
        words=pack_panels(words, panel),
        scales=pack_panels(weight.scales, panel),
        zeros=None if zeros is None else pack_panels(zeros, panel),
    )


def w4a16_product(
    builder: relax.BlockBuilder, gpu: GpuSpec, data: relax.Expr, weight: W4Weight
) -> relax.Call:
    """The call of a kernel that multiplies `data` with `weight`.

    Element-wise consumers (bias, activation, residual) may join it, as with any product.

    Args:
        builder: inside a dataflow block of the function that gets the call.
        gpu: the device.
        data: [.., K] float16 or float32 of known shape.
        weight: [K, N]; becomes constants.

    Returns:
        A `call_tir` of type [.., N], of `data`'s element type; not yet emitted.
    """
    shape = known_shape(data)
    depth, columns = weight.codes.shape
    if shape[-1] != depth:
        raise ValueError(f"a product of {shape} with a 4-bit weight of depth {depth}")
    rows = math.prod(shape[:-1])
    tile = w4a16_tile(gpu, rows, depth, columns)
    panels = pack_w4(weight, tile.panel)
    product = W4Product(
        shape=shape,
        columns=columns,
        group=weight.group,
        tile=tile,
        out_dtype=str(data.ty.dtype),
    )
    return builder.call_te(
        product.compute,
        data,
        *(relax.const(part) for part in panels.arrays()),
        primfunc_name_hint="w4a16",
        primfunc_attrs=CONTRACTION_ATTRS,
    )


def w4a16_tile(gpu: GpuSpec, rows: int, depth: int, columns: int) -> RegisterTile:
    """The register tile of [rows, depth] x [depth, columns]."""
    words = depth // CODES_PER_WORD
    few = split_depth_tile(gpu, rows, words, vectors=_VECTORS)
    if few:
        return few
    tile = choose_tile(gpu, rows, columns)
    return blocked(gpu, tile, (1, rows, columns), words)


@dataclasses.dataclass(frozen=True, kw_only=True)
class W4Product:
    """The tensor expression of one product with a 4-bit weight."""

    shape: tuple[int, ...]  # of x: [.., K]
    columns: int  # N
    group: int
    tile: RegisterTile
    out_dtype: str

    def compute(
        self, x: te.Tensor, words: te.Tensor, scales: te.Tensor, zeros: te.Tensor | None = None
    ) -> te.Tensor:
        """[.., N]; `words`, `scales` and `zeros` as in `W4Panels`."""
        *leading, depth = self.shape
        panel = self.tile.panel
        word = te.reduce_axis((0, depth // CODES_PER_WORD), name="word")

        def term(_batch: tirx.Var, row: tirx.Expr, column: tirx.Var) -> tirx.Expr:
            strip, lane = column // panel, column % panel
            place = unravel(row, leading)
            xs = [
                x(*place, word * CODES_PER_WORD + i).astype("float32")
                for i in range(CODES_PER_WORD)
            ]
            bits = words[strip, word, lane]
            group = word // (self.group // CODES_PER_WORD)
            scale = scales[strip, group, lane].astype("float32")
            zero = (
                tirx.const(float(SYMMETRIC_ZERO), "float32")
                if zeros is None
                else zeros[strip, group, lane].astype("float32")
            )
            return scale * (_dot(xs, bits) - zero * _sum(xs))

        rows = math.prod(leading)
        sums = contraction((1, rows, self.columns), [word], term, self.tile)

        def result(*index: tirx.Var) -> tirx.Expr:
            row = tirx.const(0, "int32")
            for at, extent in zip(index[:-1], leading, strict=True):
                row = row * extent + at
            return sums(0, row, index[-1]).astype(self.out_dtype)

        return te.compute((*leading, self.columns), result, name="product")


def _dot(xs: list[tirx.Expr], bits: tirx.Expr) -> tirx.Expr:
    """The sum of `xs` times the codes in `bits`; two chains, which do not wait for each other."""
    terms = []
    for i, x in enumerate(xs):
        code = tirx.bitwise_and(bits, tirx.const(0xF << 4 * i, "uint32"))
        terms.append(x * tirx.const(2.0 ** (-4 * i), "float32") * code.astype("float32"))
    return _sum(terms[::2]) + _sum(terms[1::2])


def _sum(terms: list[tirx.Expr]) -> tirx.Expr:
    total, *rest = terms
    for term in rest:
        total = total + term
    return total


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """[N, bytes] -> [N, 2 * bytes]: the low halves before the high ones."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
