"""Verb: let models of other machines run on this one, for those who may.

TVM's own RPC is plain text, knows no password and runs code. Here it starts only behind a token or
a certificate, in a process of its own for each session, and its messages pass through a check of
their lengths. The server listens to this machine alone, for ssh's or adb's forwarding, unless it
has TLS.
"""

from __future__ import annotations

import argparse
import contextlib
import hmac
import ipaddress
import json
import os
import secrets
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from hetero_tvm import cli
from hetero_tvm.errors import BadInput, EnvironmentProblem, KeyUnusable, OpenToNetwork
from hetero_tvm.transports.exactly import exactly
from hetero_tvm.transports.rpc import (
    DEFAULT_PORT,
    LENGTH,
    MAGIC,
    MOST_HELLO_BYTES,
    TOKEN,
)

EXAMPLES = """\
examples:
  hetero-tvm device_server --folder ~/models
  hetero-tvm device_server --folder ~/models --listen 0.0.0.0:9180 --cert server.pem --key key.pem

On the other machine, with the token of FOLDER/token in HETERO_RPC_TOKEN:
  ssh -L 9180:127.0.0.1:9180 board, then  hetero-tvm run encoder.so --to rpc://127.0.0.1:9180
  HETERO_RPC_CA=server.pem hetero-tvm run encoder.so --to rpcs://board:9180

Who has the token can run code here as this user. exit codes: 0 stopped, 2 bad input, 3 no such port
"""
_HELLO_S = 10.0  # for everything until a client is let in
_MOST_STRANGERS = 16  # who have not been let in yet, at once
_FRAME = struct.Struct("<Q")  # TVM's RPC: the length of the message that follows
_BLOCK_BYTES = 1 << 16
_BUSY_S = 4.0  # more than an ending session takes to end
_LAST_PORT = 65535
_END_S = 2.0  # a session's process gets this long to end by itself


class Refused(Exception):
    """A client is not let in; what it is told."""


class Server:
    """Listens, lets clients in, one at a time, and starts their sessions."""

    def __init__(
        self,
        folder: Path,
        listener: socket.socket,
        token: str | None,
        context: ssl.SSLContext | None = None,
        most_bytes: int = 1 << 30,
    ) -> None:
        """`token` None: `context` asks for a client's certificate. `most_bytes`: of one message."""
        self._folder, self._listener = folder, listener
        self._token, self._context, self._most_bytes = token, context, most_bytes
        self._strangers = threading.BoundedSemaphore(_MOST_STRANGERS)
        self._session = threading.Lock()  # held by the client whose session runs
        self._process: subprocess.Popen | None = None

    def serve(self) -> None:
        """Until the listener is closed."""
        while True:
            try:
                line, peer = self._listener.accept()
            except OSError:
                return
            if not self._strangers.acquire(blocking=False):
                line.close()
                continue
            threading.Thread(target=self._client, args=(line, peer), daemon=True).start()

    def stop(self) -> None:
        """Close the listener and end the session that runs."""
        self._listener.close()
        process = self._process
        if process is not None:
            process.kill()

    def _client(self, line: socket.socket, peer: tuple) -> None:
        """One connection, from its first byte to its last; nothing that it does ends the server."""
        deadline = time.monotonic() + _HELLO_S
        let_in = False
        try:
            try:
                line = self._let_in(line, deadline)
                let_in = True
            finally:
                self._strangers.release()
            cli.say(f"{peer[0]}:{peer[1]}: session begins")
            try:
                self._run(line)
            finally:
                self._session.release()
                cli.say(f"{peer[0]}:{peer[1]}: session ended")
        except (OSError, EOFError, Refused) as error:
            if not let_in:
                cli.say(f"{peer[0]}:{peer[1]}: not let in: {error}")
        finally:
            line.close()

    def _let_in(self, line: socket.socket, deadline: float) -> socket.socket:
        """Check who is there; then hold the lock of the session."""
        line.settimeout(_HELLO_S)
        if self._context is not None:
            line = self._context.wrap_socket(line, server_side=True)
        try:
            hello = _hello(line, deadline)
            if self._token is not None and not _same(hello.get("token"), self._token):
                raise Refused(f"wrong token: put that of its folder's file into {TOKEN}")
            if not self._session.acquire(timeout=_BUSY_S):
                raise Refused("busy: another session is running")
        except Refused as error:
            _answer(line, 1, str(error))
            raise
        try:
            _answer(line, 0, "")
            line.settimeout(None)
        except BaseException:
            self._session.release()
            raise
        return line

    def _run(self, line: socket.socket) -> None:
        """Start a process for the session and carry its messages until either side ends."""
        mine, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "hetero_tvm.device_session"),
                    *(str(self._folder), str(theirs.fileno())),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if name != TOKEN},
                start_new_session=True,
            )
        process = self._process
        back = threading.Thread(target=_carry, args=(mine, line), daemon=True)
        back.start()
        try:
            self._carry_checked(line, mine)
        finally:
            for each in (mine, line):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            back.join(_END_S)
            mine.close()
            self._process = None

    def _carry_checked(self, line: socket.socket, session: socket.socket) -> None:
        """Messages from the client, none longer than is allowed."""
        with contextlib.suppress(OSError):
            while True:
                (size,) = _FRAME.unpack(exactly(line, _FRAME.size))
                if size > self._most_bytes:
                    cli.say(f"a message of {size} bytes is longer than --most-bytes: cut off")
                    return
                session.sendall(_FRAME.pack(size))
                while size:
                    data = line.recv(min(size, _BLOCK_BYTES))
                    if not data:
                        return
                    session.sendall(data)
                    size -= len(data)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm device_server`."""
    parser.add_argument(
        "--folder", type=Path, required=True, help="what sessions may write to; models stay there"
    )
    parser.add_argument(
        "--listen",
        default=f"127.0.0.1:{DEFAULT_PORT}",
        metavar="ADDRESS:PORT",
        help=f"default 127.0.0.1:{DEFAULT_PORT}; any other address needs --cert",
    )
    parser.add_argument("--cert", type=Path, metavar="PEM", help="certificate: TLS from now on")
    parser.add_argument("--key", type=Path, metavar="PEM", help="its private key")
    parser.add_argument(
        "--client-ca",
        type=Path,
        metavar="PEM",
        help="let in whoever has a certificate of this authority, instead of the token",
    )
    parser.add_argument(
        "--most-bytes", type=int, default=1 << 30, help="of one message (default 1 GiB)"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    host, _, port = args.listen.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        number = int(port)
    except ValueError:
        number = -1
    if not 0 <= number <= _LAST_PORT:
        raise BadInput(
            f"--listen {args.listen}: write an address and a port, as in 127.0.0.1:{DEFAULT_PORT}"
        )
    context = _context(args)
    if not address.is_loopback and context is None:
        raise OpenToNetwork(
            f"--listen {args.listen}: TVM's RPC runs code, so a network gets it only by TLS: give "
            "--cert and --key; or stay at 127.0.0.1 and come in by ssh -L or adb forward"
        )
    if args.most_bytes < 1 << 16:
        raise BadInput(f"--most-bytes {args.most_bytes}: at least {1 << 16}")
    folder = args.folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise BadInput(f"--folder {args.folder}: is a file; name a folder") from None
    token = None if args.client_ca is not None else _token(folder)
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        listener = socket.create_server((str(address), number), family=family)
    except OSError as error:
        raise EnvironmentProblem(f"--listen {args.listen}: {error.strerror or error}") from None
    server = Server(folder, listener, token, context, args.most_bytes)
    shown = listener.getsockname()[1]
    who = "whoever has the token in " + str(folder / "token") if token else "certificates"
    cli.say(f"listening on {host}:{shown}{', TLS' if context else ''}, for {who}", quiet=args.quiet)
    if args.json:
        cli.emit_json("device_server", {"port": shown, "folder": str(folder)})
    try:
        server.serve()
    finally:
        server.stop()
    return 0


def _context(args: argparse.Namespace) -> ssl.SSLContext | None:
    if args.cert is None:
        if args.key is not None or args.client_ca is not None:
            raise BadInput("--key and --client-ca go with --cert")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(args.cert, args.key)
        if args.client_ca is not None:
            context.load_verify_locations(args.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise KeyUnusable(f"--cert, --key or --client-ca: {error}") from None
    return context


def _token(folder: Path) -> str:
    """The folder's token, made at the first start; readable by its owner only."""
    path = folder / "token"
    with contextlib.suppress(FileExistsError):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
    token = path.read_text().strip()
    if len(token) < 16:
        raise BadInput(f"{path}: no token; delete the file, and a new one is made")
    return token


def _hello(line: socket.socket, deadline: float) -> dict:
    """What a client says first. Reads no more than it may say, no longer than it may take."""

    def read(size: int) -> bytes:
        data = b""
        while len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Refused("too slow")
            line.settimeout(left)
            more = line.recv(size - len(data))
            if not more:
                raise EOFError("hung up")
            data += more
        return data

    if read(len(MAGIC)) != MAGIC:
        raise EOFError("no client of ours")  # it is told nothing
    (size,) = LENGTH.unpack(read(LENGTH.size))
    if size > MOST_HELLO_BYTES:
        raise EOFError(f"a greeting of {size} bytes")
    try:
        hello = json.loads(read(size))
    except (ValueError, RecursionError):
        hello = None
    if not isinstance(hello, dict):
        raise EOFError("a greeting that is none")
    return hello


def _same(given: object, token: str) -> bool:
    # JSON can escape half a character, which UTF-8 has no bytes for.
    return isinstance(given, str) and hmac.compare_digest(
        given.encode("utf-8", "surrogatepass"), token.encode()
    )


def _answer(line: socket.socket, code: int, words: str) -> None:
    text = words.encode()
    line.sendall(bytes([code]) + LENGTH.pack(len(text)) + text)


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_BLOCK_BYTES):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    sys.exit(cli.verb_main("device_server"))
