"""Content-defined chunks: where two versions of a file agree, they have the same chunks.

A boundary stands where a hash of the 32 bytes before it has its lowest bits clear (Gear hash, as in
FastCDC, Xia et al., ATC 2016). So it moves with the content: whatever is inserted before a tensor's
bytes, the tensor is cut as before.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

_WINDOW = 32  # bytes that decide about a boundary: the bits of the hash
_BITS = 17  # a boundary every 128 KiB on average, beside the least size
LEAST_BYTES, MOST_BYTES = 1 << 15, 1 << 20
_BLOCK_BYTES = 8 << 20
# Any fixed table with random bits: it says which contents end a chunk, on both sides alike.
_GEAR = np.random.Generator(np.random.PCG64(1)).integers(0, 1 << 32, 256, np.uint32)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """One piece of a file. `sha256` is in hexadecimal digits."""

    sha256: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Piece:
    """`size` bytes at `offset` of `source`: a file that is there already, or None, what travels."""

    source: str | None
    offset: int
    size: int


def chunks_of(path: Path) -> list[Chunk]:
    """The file's chunks, in order; they cover all of it."""
    with path.open("rb") as file:
        return chunks_in(file, path.stat().st_size)


def chunks_in(file: BinaryIO, size: int) -> list[Chunk]:
    """The chunks of a file of `size` bytes, in order; they cover all of it."""
    ends = list(_ends(file, size))
    file.seek(0)
    found, start = [], 0
    for end in ends:
        digest = hashlib.sha256(file.read(end - start)).hexdigest()
        found.append(Chunk(digest, start, end - start))
        start = end
    return found


def index_text(chunks: Iterable[Chunk]) -> str:
    """The chunks as text, one a line."""
    return "".join(f"{chunk.sha256} {chunk.size}\n" for chunk in chunks)


def read_index(text: str) -> list[Chunk]:
    """What `index_text` wrote; ValueError where it is something else."""
    found, offset = [], 0
    for line in text.splitlines():
        digest, size = line.split()
        if len(digest) != 64 or int(size) <= 0:
            raise ValueError(f"no chunk: {line[:100]!r}")
        found.append(Chunk(digest, offset, int(size)))
        offset += int(size)
    return found


def recipe(new: Sequence[Chunk], there: Mapping[str, Sequence[Chunk]]) -> list[Piece]:
    """How `new` is put together from files that are `there` and from what travels.

    The pieces that travel are numbered by offsets in one stream of them, in order, each chunk once.
    Neighbours of one source are one piece.
    """
    known = {
        chunk.sha256: (name, chunk.offset) for name, chunks in there.items() for chunk in chunks
    }
    travelling, pieces = 0, list[Piece]()
    for chunk in new:
        source: str | None
        if chunk.sha256 not in known:
            known[chunk.sha256] = ("", travelling)
            travelling += chunk.size
        name, offset = known[chunk.sha256]
        source = name or None
        last = pieces[-1] if pieces else None
        if last and last.source == source and last.offset + last.size == offset:
            pieces[-1] = Piece(source, last.offset, last.size + chunk.size)
        else:
            pieces.append(Piece(source, offset, chunk.size))
    return pieces


def travelling(new: Sequence[Chunk], there: Mapping[str, Sequence[Chunk]]) -> list[Chunk]:
    """The chunks that are not there, in the order of `recipe`'s stream."""
    known = {chunk.sha256 for chunks in there.values() for chunk in chunks}
    found = []
    for chunk in new:
        if chunk.sha256 not in known:
            known.add(chunk.sha256)
            found.append(chunk)
    return found


def _ends(file: BinaryIO, size: int) -> Iterator[int]:
    """Ends of chunks, the file's own last."""
    start = 0
    for end in _candidates(file):
        while end - start > MOST_BYTES:
            start += MOST_BYTES
            yield start
        if end - start >= LEAST_BYTES:
            start = end
            yield end
    while size - start > MOST_BYTES:
        start += MOST_BYTES
        yield start
    if size > start:
        yield size


def _candidates(file: BinaryIO) -> Iterator[int]:
    """Offsets behind which a chunk may begin, by content alone."""
    before, offset = np.zeros(0, np.uint8), 0
    while block := file.read(_BLOCK_BYTES):
        data = np.concatenate([before, np.frombuffer(block, np.uint8)])
        # Doubling: after k steps each value covers the 2**k bytes that end at it.
        hashes, width = _GEAR[data], 1
        while width < _WINDOW:
            hashes[width:] += hashes[:-width] << np.uint32(width)
            width *= 2
        # The low bits of such a sum depend on few bytes, the high ones on all of the window.
        ends = np.flatnonzero(hashes[len(before) :] >> np.uint32(32 - _BITS) == 0)
        yield from (ends + (offset + 1)).tolist()
        offset += len(block)
        before = data[-(_WINDOW - 1) :]
