"""Cutting by content: pieces cover the file, and move with it."""

import hashlib

import numpy as np
import pytest

from hetero_tvm.chunks import (
    LEAST_BYTES,
    MOST_BYTES,
    chunks_of,
    index_text,
    read_index,
    recipe,
    travelling,
)

RNG = np.random.default_rng(7)
DATA = RNG.bytes(12_000_000)


@pytest.fixture
def cut(tmp_path):
    def cut(data):
        (tmp_path / "file").write_bytes(data)
        return chunks_of(tmp_path / "file")

    return cut


def put_together(new, old, chunks, there):
    """What a device would make of the recipe."""
    stream = b"".join(new[c.offset : c.offset + c.size] for c in travelling(chunks, there))
    pieces = recipe(chunks, there)
    return b"".join(
        (old if piece.source else stream)[piece.offset : piece.offset + piece.size]
        for piece in pieces
    ), len(stream)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(DATA, id="random"),
        pytest.param(b"", id="empty"),
        pytest.param(b"x" * 100, id="short"),
        pytest.param(bytes(9_000_000), id="all_alike"),
        pytest.param(DATA[: (8 << 20) + 3], id="a_little_more_than_one_block"),
    ],
)
def test_chunks_cover_the_file(cut, data):
    chunks = cut(data)
    at = 0
    for chunk in chunks:
        assert chunk.offset == at and 0 < chunk.size <= MOST_BYTES
        assert hashlib.sha256(data[at : at + chunk.size]).hexdigest() == chunk.sha256
        at += chunk.size
    assert at == len(data)
    assert all(chunk.size >= LEAST_BYTES for chunk in chunks[:-1])
    assert read_index(index_text(chunks)) == chunks


def test_an_insertion_moves_the_cuts_along(cut):
    changed = DATA[:5_000_000] + b"inserted" * 1000 + DATA[5_000_000:]
    there = {"old": cut(DATA)}
    together, travelled = put_together(changed, DATA, cut(changed), there)
    assert together == changed
    assert travelled < 2 * MOST_BYTES < len(DATA) / 5


def test_blocks_of_reading_leave_no_trace(cut):
    """The file's cuts and those of the same bytes 1000 further on are the same ones."""
    moved = cut(RNG.bytes(1000) + DATA)
    assert {c.sha256 for c in cut(DATA)[2:]} <= {c.sha256 for c in moved}


def test_equal_chunks_travel_once(cut):
    twice = DATA[:3_000_000] * 2
    together, travelled = put_together(twice, b"", cut(twice), {})
    assert together == twice
    assert travelled < 3_000_000 + 2 * MOST_BYTES


def test_nothing_travels_where_all_is_there(cut):
    chunks = cut(DATA)
    assert travelling(chunks, {"old": chunks}) == []
    (piece,) = recipe(chunks, {"old": chunks})
    assert (piece.source, piece.offset, piece.size) == ("old", 0, len(DATA))


@pytest.mark.parametrize("text", ["hello", "ab 3\n", f"{'a' * 64} -1\n", f"{'a' * 64} x\n"])
def test_what_is_no_index(text):
    with pytest.raises(ValueError):
        read_index(text)
