"""A message that comes in pieces, and one that does not come whole."""

import socket

import pytest

from hetero_tvm.transports.exactly import exactly


def test_pieces_are_put_together_and_nothing_more_is_taken():
    mine, other = socket.socketpair()
    with mine, other:
        other.sendall(b"abc")
        other.sendall(b"defg")
        assert exactly(mine, 5) == b"abcde"
        assert exactly(mine, 0) == b""
        assert mine.recv(10) == b"fg"


def test_a_line_that_ends_before():
    mine, other = socket.socketpair()
    with mine, other:
        other.sendall(b"abc")
        other.close()
        with pytest.raises(ConnectionError, match="hung up"):
            exactly(mine, 5)
