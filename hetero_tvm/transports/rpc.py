"""A device that runs `hetero-tvm device_server`: who may talk to it, and the line to it.

    client: magic, length, {"token": …}    server: 0 or 1, length, words; then TVM's RPC, both ways

`rpc://` is plain and goes to the loopback address only, through ssh's or adb's forwarding; `rpcs://`
is TLS. The token is in HETERO_RPC_TOKEN (it never stands on a command line); HETERO_RPC_CA names
the server's certificate or its authority, HETERO_RPC_CERT and HETERO_RPC_KEY the client's own.

`python -m hetero_tvm.transports.rpc ADDRESS` carries stdin and stdout over that line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import ssl
import struct
import sys
import threading
import urllib.parse

from hetero_tvm.errors import (
    BadAddress,
    DeviceFailure,
    HeteroError,
    KeyUnusable,
    NotReached,
    OpenToNetwork,
)
from hetero_tvm.transports.exactly import exactly

MAGIC = b"HTVMDEV1"
LENGTH = struct.Struct("<I")
MOST_HELLO_BYTES = 4096
DEFAULT_PORT = 9180
TOKEN = "HETERO_RPC_TOKEN"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_CONNECT_S = 10.0
_BLOCK_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a device server listens."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        return f"{'rpcs' if self.tls else 'rpc'}://{self.host}:{self.port}"


def parse(text: str) -> Address:
    """`rpc://host[:port]` or `rpcs://host[:port]`.

    Raises:
        BadInput: something else, or a plain line to another machine.
    """
    try:
        url = urllib.parse.urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise BadAddress(f"--to {text}: {error}") from None
    if url.scheme not in ("rpc", "rpcs") or not host or url.path not in ("", "/") or url.username:
        raise BadAddress(f"--to {text}: write rpc://127.0.0.1:PORT or rpcs://host:PORT")
    if url.scheme == "rpc" and host not in _LOOPBACK:
        raise OpenToNetwork(
            f"--to {text}: nothing is sent to another machine in plain; use rpcs://, or forward "
            "the port: ssh -L 9180:127.0.0.1:9180 DEVICE, then --to rpc://127.0.0.1:9180"
        )
    return Address(host, port or DEFAULT_PORT, url.scheme == "rpcs")


def connect(address: Address) -> socket.socket:
    """A line to the server that has let us in.

    Raises:
        DeviceFailure: not reached, not who it should be, or it did not let us in.
    """
    try:
        line = socket.create_connection((address.host, address.port), _CONNECT_S)
    except OSError as error:
        raise NotReached(
            f"{address}: not reached: {error.strerror or error}; is `hetero-tvm device_server` "
            "running there?"
        ) from None
    try:
        if address.tls:
            line = _context().wrap_socket(line, server_hostname=address.host)
        hello = json.dumps({"token": os.environ.get(TOKEN, "")}).encode()
        line.sendall(MAGIC + LENGTH.pack(len(hello)) + hello)
        let_in = exactly(line, 1) == b"\0"
        (size,) = LENGTH.unpack(exactly(line, LENGTH.size))
        said = exactly(line, min(size, MOST_HELLO_BYTES)).decode(errors="replace")
    except OSError as error:
        line.close()
        raise NotReached(f"{address}: {error or 'it hung up'}") from None
    if not let_in:
        line.close()
        raise DeviceFailure(f"{address}: {said}")
    line.settimeout(None)
    return line


def _context() -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=os.environ.get("HETERO_RPC_CA"))
        if certificate := os.environ.get("HETERO_RPC_CERT"):
            context.load_cert_chain(certificate, os.environ.get("HETERO_RPC_KEY"))
    except (OSError, ssl.SSLError) as error:
        raise KeyUnusable(f"HETERO_RPC_CA, HETERO_RPC_CERT or HETERO_RPC_KEY: {error}") from None
    return context


def main(arguments: list[str]) -> int:
    """Carry stdin and stdout to the server and back, until it hangs up."""
    try:
        line = connect(parse(arguments[0]))
    except HeteroError as error:
        print(f"hetero_device: error: {error}", file=sys.stderr)
        return error.exit_code

    def feed() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(0, _BLOCK_BYTES):
                line.sendall(data)
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=feed, daemon=True).start()
    with contextlib.suppress(OSError):
        while data := line.recv(_BLOCK_BYTES):
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    os._exit(code)  # the thread that reads stdin may wait there for ever
