"""Products with a weight of four bits, or of eight, dequantised inside the kernel: W4A16.

    y[.., n] = sum over k of  x[.., k] * scale[k / group, n] * (code[k, n] - zero[k / group, n])

The weight is read once, as it is stored: eight codes along the depth are one 32-bit word, and words
lie in panels as a float weight does (`layout.pack_panels`), so a work-item reads whole vectors of
words. Scale and zero point are applied once for each word, or a few, and not for each code:

    scale * (sum of x * code  -  zero * sum of x)          the sums run over the codes of a column

How a code becomes a float: `four_bit_codes.py`. Sums are float32 whatever x is.

Where the items of a group share the depth (`gemv.py`), an item takes several words of a column at a
step, which share a scale, and the words lie as the items read them, neighbours side by side:

    [columns / lanes, rounds, words, items, lanes]         word (round * items + item) * words + n

On a CPU, where scales of the weight last for 32 codes, x is rounded to 16 bits (`rounded_rows.py`)
and sums of 32 products are whole numbers (`code_pairs.py`). A word then has codes 16 apart. Only so
are there weights of eight bits, four codes in a word.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from tvm import relax, te, tirx

from schedules.cache_block import blocked
from schedules.code_pairs import add_codes, pairs_per_word
from schedules.four_bit_codes import CODES_PER_WORD, Codes, IntegerCodes, SubnormalCodes
from schedules.gemv import MAX_LANES, shared_depth_tile, split_depth_tile
from schedules.layout import CONTRACTION_ATTRS, known_shape, pack_panels, unravel
from schedules.register_tile import (
    RegisterTile,
    choose_tile,
    contraction,
    round_up,
    weight_strip,
)
from schedules.rounded_rows import PAIRS, STRETCH, rounded_rows
from target_specs.spec import GpuSpec

_WORD = 32  # bits of a word
# Where a group shares the depth, what an item takes at a step: vectors of columns, which share the
# values of x, and words of each column. The first that fits is the fastest of those tried. Several
# words pay only if x is read by vectors: they are that many times farther from the neighbour's.
_STEPS_OF_ONE_ROW = ((4, 4), (4, 2), (2, 4), (2, 2))
_STEPS = ((4, 1), (2, 1), (1, 1))
# Of a tile where sums are whole numbers, at most: the fastest of 2 to 16 rows and 1 to 3 vectors,
# 188 GMAC/s on a Zen 5 core (64 x 576 x 1536).
_PAIR_ROWS, _PAIR_VECTORS = 4, 2
# Of a group, at most: with several words at a step, one step is work enough for an item.
_WAVES = 16


def middle(bits: int) -> int:
    """The zero point of symmetric weights, in whose place exporters store none."""
    return 1 << (bits - 1)


def depth_unit(bits: int) -> int:
    """What depths and groups of weights of `bits` are multiples of."""
    return CODES_PER_WORD if bits == 4 else STRETCH


def takes(gpu: GpuSpec, depth: int, group: int, bits: int) -> bool:
    """Whether there are kernels for such weights on `gpu`."""
    unit = depth_unit(bits)
    return not (depth % unit or group % unit) and (bits == 4 or (bits == 8 and gpu.wave_size == 1))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class W4Weight:
    """A weight [K, N] as codes with a scale, and maybe a zero point, for each group of a column."""

    codes: np.ndarray  # [K, N] uint8, 0 to 15 or to 255
    scales: np.ndarray  # [ceil(K / group), N] float16 or float32
    # [ceil(K / group), N], whole numbers or not; None: the middle, 8 or 128, everywhere
    zeros: np.ndarray | None
    group: int  # neighbours along K that share a scale
    bits: int = 4  # of a code, 4 or 8

    def __post_init__(self) -> None:
        """Raise ValueError where the parts do not fit together or no kernel could take them."""
        depth, columns = self.codes.shape
        unit = depth_unit(self.bits)
        if depth % unit or self.group % unit or self.group <= 0:
            raise ValueError(
                f"a weight of {self.bits} bits, depth {depth}, in groups of {self.group}: both "
                f"must be multiples of {unit}; keep this weight in float16"
            )
        largest = (1 << self.bits) - 1
        if int(self.codes.max(initial=0)) > largest:
            raise ValueError(
                f"codes of a {self.bits}-bit weight go up to {int(self.codes.max())}, not {largest}"
            )
        shape = (-(-depth // self.group), columns)
        for name, part in (("scales", self.scales), ("zeros", self.zeros)):
            if part is not None and part.shape != shape:
                raise ValueError(
                    f"{name} of a {self.bits}-bit weight are {part.shape}, must be {shape}"
                )

    @staticmethod
    def from_blocks(
        packed: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, depth: int, bits: int = 4
    ) -> W4Weight:
        """From the form of ONNX's `com.microsoft.MatMulNBits` with `bits` 4 or 8.

        Args:
            packed: [N, blocks, block * bits / 8] uint8, the code of the lower k in the low half.
            scales: [N, blocks] or flat, float16 or float32.
            zeros: [N, ceil(blocks * bits / 8)] or flat uint8, the first one low; or one number
                each, of a float type, in the shape of `scales`; None for the middle.
            depth: K; codes past it are dropped.
            bits: of a code.

        Raises ValueError as the class does.
        """
        columns, blocks, nbytes = packed.shape
        codes = _codes_of(packed.reshape(columns, -1), bits)[:, :depth]
        if zeros is not None and zeros.dtype == np.uint8:
            zeros = _codes_of(zeros.reshape(columns, -1), bits)[:, :blocks]
        elif zeros is not None:
            zeros = zeros.reshape(columns, blocks)
        if zeros is not None and (zeros == middle(bits)).all():
            zeros = None  # need not be read
        return W4Weight(
            codes=np.ascontiguousarray(codes.T),
            scales=np.ascontiguousarray(scales.reshape(columns, blocks).T),
            zeros=None if zeros is None else np.ascontiguousarray(zeros.T),
            group=nbytes * 8 // bits,
            bits=bits,
        )

    @property
    def codes_per_word(self) -> int:
        """How many codes a word of 32 bits holds."""
        return _WORD // self.bits

    def to_blocks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | None:
        """What `from_blocks` takes, as [N, ..]; None: zero points are not whole numbers."""
        depth, columns = self.codes.shape
        blocks = len(self.scales)
        zeros = None
        if self.zeros is not None:
            zeros = self.zeros.astype(np.uint8)
            if not np.array_equal(zeros, self.zeros) or zeros.max(initial=0) >> self.bits:
                return None
            zeros = _packed(zeros.T, self.bits)
        codes = np.zeros((columns, blocks * self.group), np.uint8)
        codes[:, :depth] = self.codes.T
        packed = _packed(codes, self.bits).reshape(columns, blocks, self.group * self.bits // 8)
        return packed, np.ascontiguousarray(self.scales.T), zeros

    def dequantised(self) -> np.ndarray:
        """The weight in float64, [K, N]."""
        depth = len(self.codes)
        zeros = middle(self.bits) if self.zeros is None else self._spread(self.zeros)[:depth]
        return (self.codes - np.float64(zeros)) * self._spread(self.scales)[:depth]

    def _spread(self, parts: np.ndarray) -> np.ndarray:
        """[groups, N] -> [groups * group, N] float64."""
        return np.repeat(parts.astype(np.float64), self.group, axis=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class W4Layout:
    """How the words of a weight lie."""

    panel: int  # columns that are filled up to whole ones
    strip: int = 0  # columns side by side in memory; 0: the panel
    items: int = 1  # that share the depth
    words: int = 1  # of a column that an item reads at a step
    pairs: bool = False  # words are as `code_pairs` reads them, and so are activations

    @property
    def lanes(self) -> int:
        """Columns side by side in memory."""
        return self.strip or self.panel


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class W4Panels:
    """A `W4Weight` as the kernel reads it; N' is N filled up to whole panels with zeros."""

    # [N' / lanes, K / codes of a word, lanes] uint32, the code of the lowest k lowest; where items
    # share the depth, [N' / lanes, rounds, words, items, lanes].
    words: np.ndarray
    scales: np.ndarray  # [N' / lanes, groups, lanes] float16 or float32
    zeros: np.ndarray | None  # likewise, float16 or float32

    def arrays(self) -> list[np.ndarray]:
        """Words, scales and, where there are any, zeros: the kernel's arguments."""
        return [part for part in (self.words, self.scales, self.zeros) if part is not None]


def pack_w4(weight: W4Weight, layout: W4Layout) -> W4Panels:
    """`weight` as `layout` says."""
    columns = weight.codes.shape[1]
    codes, taken = weight.codes, weight.codes_per_word
    if layout.pairs:  # [stretch, half, word, code of the half, N]: halves side by side in a word
        halves = codes.reshape(-1, 2, 2 * PAIRS // taken, taken // 2, columns)
        codes = halves.swapaxes(1, 2)
    codes = codes.reshape(-1, taken, columns)
    words = np.zeros((len(codes), columns), np.uint32)  # [K / codes of a word, N]
    for n in range(taken):
        words |= codes[:, n].astype(np.uint32) << np.uint32(n * weight.bits)
    words = _strips(words, layout)
    if layout.items > 1:
        split = words.reshape(len(words), -1, layout.items, layout.words, layout.lanes)
        words = np.ascontiguousarray(split.transpose(0, 1, 3, 2, 4))
    zeros = weight.zeros
    if zeros is not None:
        # Whole zero points are exact in either type; others keep theirs.
        zeros = zeros.astype(weight.scales.dtype if zeros.dtype == np.uint8 else zeros.dtype)
    return W4Panels(
        words=words,
        scales=_strips(weight.scales, layout),
        zeros=None if zeros is None else _strips(zeros, layout),
    )


def _strips(part: np.ndarray, layout: W4Layout) -> np.ndarray:
    """[rows, N] -> [N' / lanes, rows, lanes]."""
    columns = part.shape[1]
    padded = np.pad(part, ((0, 0), (0, round_up(columns, layout.panel) - columns)))
    return pack_panels(padded, layout.lanes)


# Of an operand, what `rounded_rows` made of it.
Rounded = dict[relax.DataflowVar, list[relax.Var]]


def w4a16_product(
    builder: relax.BlockBuilder,
    gpu: GpuSpec,
    data: relax.Expr,
    weight: W4Weight,
    known: Rounded | None = None,
) -> relax.Call:
    """The call of a kernel that multiplies `data` with `weight`.

    Element-wise consumers (bias, activation, residual) may join it, as with any product.

    Args:
        builder: inside a dataflow block of the function that gets the call.
        gpu: the device.
        data: [.., K] float16 or float32 of known shape.
        weight: [K, N]; becomes constants.
        known: what was rounded before, so that several products of one operand have it in common.

    Returns:
        A `call_tir` of type [.., N], of `data`'s element type; not yet emitted. On a CPU what
        rounds `data` is emitted.
    """
    shape = known_shape(data)
    depth, columns = weight.codes.shape
    if shape[-1] != depth:
        raise ValueError(f"a product of {shape} with a {weight.bits}-bit weight of depth {depth}")
    tile, layout = w4a16_tile(
        gpu,
        (math.prod(shape[:-1]), depth, columns),
        weight.group,
        bits=weight.bits,
        is_aligned=isinstance(data, relax.Var) and builder.lookup_binding(data) is not None,
    )
    left = _rounded(builder, gpu, data, known) if layout.pairs else [data]
    product = W4Product(
        shape=shape,
        columns=columns,
        group=weight.group,
        bits=weight.bits,
        tile=tile,
        layout=layout,
        codes=_codes(gpu, tile),
        out_dtype=str(data.ty.dtype),
    )
    return builder.call_te(
        product.by_pairs if layout.pairs else product.compute,
        *left,
        *(relax.const(part) for part in pack_w4(weight, layout).arrays()),
        primfunc_name_hint=f"w{weight.bits}a16",
        primfunc_attrs=CONTRACTION_ATTRS,
    )


def _rounded(
    builder: relax.BlockBuilder, gpu: GpuSpec, data: relax.Expr, known: Rounded | None
) -> list[relax.Var]:
    # A dataflow variable is read in its own block alone: what is made of it there, all readers see.
    if known is None or not isinstance(data, relax.DataflowVar):
        return rounded_rows(builder, gpu, data)
    if data not in known:
        known[data] = rounded_rows(builder, gpu, data)
    return known[data]


def w4a16_tile(
    gpu: GpuSpec, shape: tuple[int, int, int], group: int, *, is_aligned: bool, bits: int = 4
) -> tuple[RegisterTile, W4Layout]:
    """The register tile of a product, and how the words lie for it.

    Args:
        gpu: the device.
        shape: (rows, depth, columns).
        group: codes of a column that share a scale.
        is_aligned: another kernel made the left side, which promises where it begins.
        bits: of a code; of eight only what `takes` says.
    """
    rows, depth, columns = shape
    if bits != 4:
        assert takes(gpu, depth, group, bits), f"no product with {bits} bits"
        return _pairs_tile(gpu, shape, bits)
    if gpu.wave_size > 1:
        for vectors, words in (*(_STEPS_OF_ONE_ROW if rows == 1 and is_aligned else ()), *_STEPS):
            if depth % (words * CODES_PER_WORD) or group % (words * CODES_PER_WORD):
                continue
            tile = _depth_tile(gpu, rows, depth // (words * CODES_PER_WORD), vectors, words)
            if tile:
                return tile, W4Layout(
                    panel=tile.panel, strip=tile.lanes, items=tile.items_k, words=words
                )
    if depth % STRETCH == 0 and group % STRETCH == 0:
        return _pairs_tile(gpu, shape, bits)
    strip = weight_strip(gpu, columns)
    tile = choose_tile(gpu, rows, columns, strip=strip)
    strip = strip or tile.panel
    if rows == 1:
        # A second strip at once would be a stream of its own, and a short one: K / 8 words of each
        # column. On a CPU with one strip at a time 576 x 49152 takes 0.69 ms in place of 1.10.
        tile = dataclasses.replace(tile, vectors=strip // tile.lanes)
    tile = blocked(gpu, tile, (1, rows, columns), depth // CODES_PER_WORD)
    return tile, W4Layout(panel=strip)


def _pairs_tile(
    gpu: GpuSpec, shape: tuple[int, int, int], bits: int
) -> tuple[RegisterTile, W4Layout]:
    """Strips of one vector: what the codes of a stretch become fills the registers."""
    rows, depth, columns = shape
    lanes = choose_tile(gpu, rows, columns).lanes
    tile = RegisterTile(rows=1, vectors=1, lanes=lanes, items_x=1, items_y=1)
    if rows > 1:
        rows_of_one = -(-rows // -(-rows // _PAIR_ROWS))
        tile = dataclasses.replace(tile, rows=rows_of_one, vectors=_PAIR_VECTORS)
        codes = _WORD // bits
        tile = blocked(gpu, tile, (1, rows, columns), depth // codes)
        block_depth, rest = divmod(tile.block_depth, STRETCH // codes)
        tile = dataclasses.replace(tile, block_depth=0 if rest else block_depth)
    return tile, W4Layout(panel=_PAIR_VECTORS * lanes, strip=lanes, pairs=True)


def _depth_tile(
    gpu: GpuSpec, rows: int, steps: int, vectors: int, words: int
) -> RegisterTile | None:
    """The tile whose items share `steps` of `words` words each."""
    if words == 1:
        return split_depth_tile(gpu, rows, steps, vectors)
    most = min(_WAVES * gpu.wave_size, gpu.max_work_group_size, steps)
    results = rows * vectors * min(gpu.vector_width, MAX_LANES)
    fitting = [n for n in range(results, most + 1, results) if steps % n == 0]
    tiles = (shared_depth_tile(gpu, rows, items, vectors) for items in reversed(fitting))
    return next((tile for tile in tiles if tile), None)


def _codes(gpu: GpuSpec, tile: RegisterTile) -> Codes:
    """How the device should make floats of codes."""
    if tile.items_k == 1:
        return IntegerCodes(chains=2)  # two sums that do not wait for each other
    return SubnormalCodes() if gpu.denormals else IntegerCodes(chains=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class W4Product:
    """The tensor expression of one product with a 4-bit weight."""

    shape: tuple[int, ...]  # of x: [.., K]
    columns: int  # N
    group: int
    bits: int
    tile: RegisterTile
    layout: W4Layout
    codes: Codes
    out_dtype: str

    def compute(
        self, x: te.Tensor, words: te.Tensor, scales: te.Tensor, zeros: te.Tensor | None = None
    ) -> te.Tensor:
        """[.., N]; `words`, `scales` and `zeros` as in `W4Panels`."""
        *leading, depth = self.shape
        lanes, items = self.layout.lanes, self.layout.items
        taken = self.layout.words * CODES_PER_WORD  # codes of a column at a step
        step = te.reduce_axis((0, depth // taken), name="step")

        def term(_batch: tirx.Var, row: tirx.Expr, column: tirx.Var) -> tirx.Expr:
            strip, lane = column // lanes, column % lanes
            place = unravel(row, leading)
            xs = [x(*place, step * taken + i).astype("float32") for i in range(taken)]
            at: list[tuple[tirx.Expr | int, ...]] = [(step,)]
            if items > 1:
                at = [(step // items, n, step % items) for n in range(self.layout.words)]
            group = step * taken // self.group
            zero = (
                tirx.const(float(middle(self.bits)), "float32")
                if zeros is None
                else zeros[strip, group, lane].astype("float32")
            )
            bits = [words[(strip, *word, lane)] for word in at]
            scale = scales[strip, group, lane].astype("float32")
            return self.codes.product(xs, bits, scale, zero)

        rows = math.prod(leading)
        return self._result(contraction((1, rows, self.columns), [step], term, self.tile))

    def by_pairs(
        self,
        pairs: te.Tensor,
        x_scales: te.Tensor,
        x_sums: te.Tensor,
        words: te.Tensor,
        scales: te.Tensor,
        zeros: te.Tensor | None = None,
    ) -> te.Tensor:
        """[.., N] of x as `rounded_rows` gives it."""
        *leading, depth = self.shape
        rows, lanes = math.prod(leading), self.layout.lanes
        taken = pairs_per_word(self.bits)
        stretch = te.reduce_axis((0, depth // STRETCH), name="stretch")

        def term(_batch: tirx.Var, row: tirx.Expr, column: tirx.Var) -> tirx.Expr:
            strip, lane = column // lanes, column % lanes
            dot: tirx.Expr = tirx.const(0, "int32")
            for n in range(PAIRS // taken):
                word = words[strip, stretch * (PAIRS // taken) + n, lane]
                of_word = range(n * taken, (n + 1) * taken)
                numbers = [pairs[row, stretch, pair] for pair in of_word]
                dot = add_codes(dot, word, numbers, once=rows == 1)
            at = (strip, stretch * STRETCH // self.group, lane)
            zero = tirx.const(float(middle(self.bits)), "float32")
            if zeros is not None:
                zero = zeros[at].astype("float32")
            whole = x_scales[row, stretch] * dot.astype("float32") - zero * x_sums[row, stretch]
            return scales[at].astype("float32") * whole

        sums = contraction((1, rows, self.columns), [stretch], term, self.tile, vectors_first=True)
        return self._result(sums)

    def _result(self, sums: te.Tensor) -> te.Tensor:
        """[.., N] of padded sums [1, rows', columns']."""
        leading = self.shape[:-1]

        def result(*index: tirx.Var) -> tirx.Expr:
            row = tirx.const(0, "int32")
            for at, extent in zip(index[:-1], leading, strict=True):
                row = row * extent + at
            return sums(0, row, index[-1]).astype(self.out_dtype)

        return te.compute((*leading, self.columns), result, name="product")


def _codes_of(packed: np.ndarray, bits: int) -> np.ndarray:
    """[N, bytes] -> [N, 8 / bits * bytes]: the lower bits before the higher ones."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


def _packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """The other way; of four bits an odd one out has 0 beside it."""
    if bits == 8:
        return np.ascontiguousarray(codes)
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return even[:, ::2] | even[:, 1::2] << 4
