"""A message of known length out of a line that gives it in pieces."""

from __future__ import annotations

import socket

_BLOCK_BYTES = 1 << 16


def exactly(line: socket.socket, size: int) -> bytes:
    """`size` bytes; ConnectionError where the line ends before."""
    data = bytearray()
    while len(data) < size:
        more = line.recv(min(size - len(data), _BLOCK_BYTES))
        if not more:
            raise ConnectionError("it hung up")
        data += more
    return bytes(data)
