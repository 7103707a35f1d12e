"""Binaries of one region for several chips, stored so that what they have in common is there once.

    v73 [head][weights][tail]   v75 [head'][weights][tail']   ->   pieces 0 1 2 3 4;  0 1 2, 3 1 4

Qualcomm's compiler packs a region's weights alike for all architectures since v73, so binaries of
one region differ in a few ten kilobytes each. (Its own files for several chips have the weights
once, too, but no simulator loads them.)
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from hetero_tvm.chunks import chunks_in


def split(
    binaries: Mapping[str, Sequence[bytes]],
) -> tuple[list[bytes], dict[str, list[list[int]]]]:
    """All pieces, each once, and for each name and each of its binaries the numbers of its pieces.

    A binary is its pieces one after another.
    """
    pieces: list[bytes] = []
    number: dict[str, int] = {}  # by the hash of a chunk
    numbers: dict[str, list[list[int]]] = {}
    for name, versions in binaries.items():
        numbers[name] = []
        for binary in versions:
            taken = []
            for chunk in chunks_in(io.BytesIO(binary), len(binary)):
                if chunk.sha256 not in number:
                    number[chunk.sha256] = len(pieces)
                    pieces.append(binary[chunk.offset : chunk.offset + chunk.size])
                taken.append(number[chunk.sha256])
            numbers[name].append(taken)
    return pieces, numbers
