"""Inputs from seeds, and results held against expected ones, with nothing but Python.

The same bytes on every machine: Python's generator gives 16 bits for each value, and what they
stand for is exact in float32. Their CRC is sent along, so that a Python that draws others shows.
"""

from __future__ import annotations

import math
import random
import struct
from array import array
from collections.abc import Sequence

_CODES = {  # of `struct`
    "float16": "e",
    "float32": "f",
    "float64": "d",
    "int8": "b",
    "uint8": "B",
    "bool": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
}
_LARGEST = {"float16": 65504.0, "float32": 3.4028234663852886e38, "float64": 1.7976931348623157e308}
# What memory holds before a kernel has written it: no kernel gives it.
_FILLING = {"float16": -6.0e4, "float32": -3.0e38, "float64": -3.0e38}
_CHUNK = 1 << 20  # bytes drawn at once

DTYPES = tuple(_CODES)


class Refused(Exception):
    """Something that was copied here cannot be used: one line for the user."""


def drawn(seed: int, place: int, count: int, dtype: str, *, edge: bool) -> bytes:
    """Bytes of one input.

    Args:
        seed: of the run.
        place: which parameter; each has values of its own.
        count: elements.
        dtype: floats are spread evenly over [-2, 2]; integers are 0 and 1, indices of anything
            with two elements; but uint32 is any bits, since kernels take such words apart.
        edge: an eighth each of zeros, negative zeros, large and small numbers, and a run of ones.
    """
    generator = random.Random(f"{seed} {place}")
    size = struct.calcsize(_CODES[dtype])
    if dtype == "uint32":
        return _bits(generator, count * size)[: count * size]
    table = [struct.pack("<" + _CODES[dtype], _value(word, dtype, edge)) for word in range(1 << 16)]
    words = memoryview(_bits(generator, 2 * count)).cast("H")[:count]
    content = b"".join(map(table.__getitem__, words))
    if edge and dtype.startswith("float"):
        start, length = generator.randrange(count), count // 16 + 1
        length = min(length, count - start)
        ones = struct.pack("<" + _CODES[dtype], 1.0) * length
        content = content[: start * size] + ones + content[(start + length) * size :]
    return content


def filling(count: int, dtype: str) -> bytes:
    """Bytes of memory that a kernel has to write."""
    return struct.pack("<" + _CODES[dtype], _FILLING.get(dtype, 0)) * count


def repeated(value: int, count: int, dtype: str) -> bytes:
    """Bytes of an input whose elements are all `value`."""
    return struct.pack("<" + _CODES[dtype], value) * count


def unpacked(content: bytes, dtype: str) -> Sequence[float]:
    """Bytes as numbers."""
    if dtype == "float16":  # `array` has no such type
        return struct.unpack(f"<{len(content) // 2}e", content)
    numbers = array(_CODES[dtype])
    numbers.frombytes(content)
    return numbers


def relative_error(got: Sequence[float], want: Sequence[float], dtype: str) -> float:
    """As `schedules.verify.relative_error`, for results of `dtype`.

    The largest difference over the largest wanted number; of integers, 1 where any differs.
    Infinities and NaN must be where they are wanted.
    """
    if dtype not in _LARGEST:
        return float(list(got) != list(want))
    limit = _LARGEST[dtype]
    differences = array("d", map(float.__sub__, map(float, got), map(float, want)))
    largest = max(max(want, default=0.0), -min(want, default=0.0))
    # A sum is finite only where every part is.
    if math.isfinite(sum(differences)) and math.isfinite(sum(want)) and largest <= 0.5 * limit:
        worst = max(max(differences, default=0.0), -min(differences, default=0.0))
        return worst / max(largest, 1e-30)
    return _with_infinities(got, want, limit)


def _with_infinities(got: Sequence[float], want: Sequence[float], limit: float) -> float:
    scale, worst = 1e-30, 0.0
    for place, wanted in enumerate(want):
        found = got[place]
        if math.isnan(wanted) or abs(wanted) > 0.5 * limit:  # near the limit either side is right
            alike = math.isnan(found) == math.isnan(wanted) and (found > 0) == (wanted > 0)
            if not alike:
                return math.inf
            continue
        if not math.isfinite(found):
            return math.inf
        scale, worst = max(scale, abs(wanted)), max(worst, abs(found - wanted))
    return worst / scale


def _bits(generator: random.Random, count: int) -> bytes:
    """At least `count` random bytes, an even number."""
    count += count % 2
    parts = []
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        parts.append(generator.getrandbits(8 * size).to_bytes(size, "little"))
    return b"".join(parts)


def _value(word: int, dtype: str, edge: bool) -> float:
    if not dtype.startswith("float"):
        return word & 1
    value = (2 * word - 65535) / 32768
    if edge:
        kind = word % 8
        value = (0.0, -0.0, 100 * value, value / 1024)[kind] if kind < 4 else value
    return value
