"""Inputs of any length on functions of a few: which of them run, and on what part of the inputs.

    built 32, 64, 256;  asked 64:  [0, 64) on 64
                        asked 40:  [0, 40) on 64, filled up                     padding
                        asked 300: [0, 256) on 256, then [256, 300) on 64       chunking

Both ways are offered only where `length_proof` found at build time that they change nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from hetero_tvm.frontend.tensor_spec import TensorSpec

# Beyond so many of the longest pieces the choice of the last few no longer shows.
_SEARCHED = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthRules:
    """Where the length shows in a model's inputs and outputs, and what may be done about it."""

    input_axes: Mapping[str, tuple[int, ...]]  # of the inputs that carry the length
    output_axes: Mapping[str, tuple[int, ...]]  # of the outputs that do
    fill: Mapping[str, float]  # input -> what it is filled up with
    padding: bool
    padding_words: str  # what the proof found
    chunking: bool
    chunking_words: str

    def check(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        """Refuse rules, which came with a file, that do not go with this border; ValueError."""
        for specs, axes in ((inputs, self.input_axes), (outputs, self.output_axes)):
            ranks = {spec.name: len(spec.shape) for spec in specs}
            for name, found in axes.items():
                if (
                    name not in ranks
                    or not found
                    or any(not 0 <= axis < ranks[name] for axis in found)
                ):
                    raise ValueError(f"{name} has no axes {list(found)}")
        if not self.input_axes or set(self.input_axes) - set(self.fill):
            raise ValueError("no input carries the length, or one cannot be filled up")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """Elements [start, start + size) of the inputs, on the function for `length` elements."""

    start: int
    size: int
    length: int


Way = tuple[Piece, ...]


def way(
    size: int, predicted_us: Mapping[int, float], *, padding: bool, chunking: bool
) -> Way | None:
    """The cheapest way to run inputs of `size` elements; None where there is none.

    Args:
        size: above 0.
        predicted_us: built length -> what its plan is predicted to take.
        padding: an input may be filled up to a longer built length.
        chunking: an input may be cut, and its last piece be filled up.
    """
    if size in predicted_us:
        return (Piece(start=0, size=size, length=size),)
    lengths = sorted(predicted_us)
    if not chunking:
        fitting = [length for length in lengths if length > size]
        if not padding or not fitting:
            return None
        return (Piece(start=0, size=size, length=min(fitting, key=predicted_us.__getitem__)),)
    best = min(lengths, key=lambda length: predicted_us[length] / length)
    sure = max(0, size - _SEARCHED * lengths[-1]) // best
    chosen = [best] * sure + _cheapest(size - sure * best, predicted_us, lengths)
    pieces, start = [], 0
    for length in chosen:
        pieces.append(Piece(start=start, size=min(length, size - start), length=length))
        start += length
    return tuple(pieces)


def _cheapest(size: int, predicted_us: Mapping[int, float], lengths: list[int]) -> list[int]:
    """The lengths whose sum reaches `size` in the least time, the longest first."""
    _, choice = _table(size, predicted_us, lengths)
    chosen = []
    while size > 0:
        chosen.append(choice[size])
        size -= choice[size]
    # What is beyond the end is less than any piece, or the piece would have been left away: so
    # only the last one is not full, in any order.
    return sorted(chosen, reverse=True)


def _table(
    size: int, predicted_us: Mapping[int, float], lengths: Sequence[int]
) -> tuple[list[float], list[int]]:
    """For up to `size` elements: the least time in which lengths' sum reaches them, and one length.

    Dynamic programming over how much is left.
    """
    cost = [0.0] * (size + 1)
    choice = [0] * (size + 1)
    for left in range(1, size + 1):
        cost[left], choice[left] = min(
            (predicted_us[length] + cost[max(0, left - length)], length) for length in lengths
        )
    return cost, choice


def least_us(size: int, predicted_us: Mapping[int, float], *, chunking: bool) -> list[float]:
    """What inputs of 0 … `size` elements take in the cheapest way; `size` is a built length."""
    lengths = sorted(predicted_us)
    if chunking:
        return _table(size, predicted_us, lengths)[0]
    return [0.0] + [
        min(predicted_us[length] for length in lengths if length >= elements)
        for elements in range(1, size + 1)
    ]


def words(found: Way) -> str:
    """A way for people: `256 + 44 -> 64`, shortened where it is long."""
    texts = [
        str(piece.length) if piece.size == piece.length else f"{piece.size} -> {piece.length}"
        for piece in found
    ]
    shown = texts if len(texts) <= 4 else [*texts[:2], "...", texts[-1]]
    return " + ".join(shown)


def with_length(shape: Sequence[int], axes: Collection[int], size: int) -> tuple[int, ...]:
    """`shape` with `size` on each of `axes`."""
    return tuple(size if axis in axes else dim for axis, dim in enumerate(shape))


def part(array: np.ndarray, axes: Sequence[int], start: int, size: int) -> np.ndarray:
    """Elements [start, start + size) along each of `axes`: a view."""
    index = [slice(None)] * array.ndim
    for axis in axes:
        index[axis] = slice(start, start + size)
    return array[tuple(index)]


def filled(array: np.ndarray, axes: Sequence[int], length: int, value: float) -> np.ndarray:
    """`array` with `value` behind its elements, up to `length` along each of `axes`."""
    shape = with_length(array.shape, axes, length)
    if shape == array.shape:
        return array
    whole = np.full(shape, value, dtype=array.dtype)
    whole[tuple(slice(size) for size in array.shape)] = array
    return whole
