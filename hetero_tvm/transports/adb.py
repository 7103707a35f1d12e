"""An Android device, through the adb server that is running on this machine.

    host:transport:SERIAL, then shell,v2,raw:COMMAND

The server's protocol is a four-digit length and a word, answered by OKAY or FAIL; the shell
protocol after it is packets of one byte of kind and four of length, which keep stdout, stderr and
the exit code apart (AOSP, packages/modules/adb: SERVICES.TXT and shell_protocol.h).

`python -m hetero_tvm.transports.adb SERIAL COMMAND` does for a device what `ssh` does: it passes
stdin, stdout, stderr and the exit code through. That is what `Adb.argv` names.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator

from hetero_tvm.errors import BadAddress, DeviceFailure
from hetero_tvm.transports.exactly import exactly
from hetero_tvm.transports.transport import Transport

_PORT = 5037
_LOST = 255  # as ssh says it
_HEADER = struct.Struct("<BI")
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_BLOCK_BYTES = 1 << 16
_MOST_BYTES = 1 << 24  # of one packet or answer: adb's own are far smaller
_CONNECT_S = 10.0


class AdbError(Exception):
    """The adb server refused, or went away; its own words."""


class Adb(Transport):
    """`serial` as `adb devices` lists it; None: the only one there is."""

    def __init__(self, serial: str | None = None) -> None:
        if serial is not None and (not serial.isprintable() or " " in serial):
            raise BadAddress(f"--to adb:{serial}: no serial number of a device")
        self._serial = serial
        super().__init__(f"adb:{serial}" if serial else "adb")

    def argv(self, command: str) -> list[str]:
        """See `Transport.argv`."""
        return [sys.executable, "-m", __name__, self._serial or "", command]

    def default_root(self) -> str:
        """See `Transport.default_root`: where Android lets its shell keep and start programs."""
        return "/data/local/tmp/hetero_tvm"

    def is_lost(self, code: int) -> bool:
        """See `Transport.is_lost`."""
        return code == _LOST

    def why_lost(self, said: str) -> str:
        """See `Transport.why_lost`."""
        if "refused" in said:
            return "start the adb server: adb start-server (Debian: apt-get install adb)"
        if "unauthorized" in said:
            return "allow this computer in the dialogue on the device's screen"
        if "more than one" in said:
            return "name one of them, as in --to adb:SERIAL"
        return "see `adb devices`"

    @contextlib.contextmanager
    def forward(self, port: int) -> Iterator[int]:
        """See `Transport.forward`: the server picks the local port."""
        prefix = f"host-serial:{self._serial}" if self._serial else "host"
        try:
            with _asked(f"{prefix}:forward:tcp:0;tcp:{port}") as connection:
                _okay(connection)  # the second, of the forwarding itself
                mine = int(_text(connection))
        except (AdbError, OSError, ValueError) as error:
            raise self._lost(str(error)) from None
        try:
            yield mine
        finally:
            with contextlib.suppress(AdbError, OSError):
                _asked(f"{prefix}:killforward:tcp:{mine}").close()


def serials() -> list[str]:
    """Serial numbers of the devices that are ready; none where no adb server runs."""
    try:
        with _asked("host:devices") as connection:
            lines = _text(connection).splitlines()
    except (AdbError, OSError):
        return []
    rows = [line.split("\t") for line in lines]
    return [row[0] for row in rows if len(row) == 2 and row[1] == "device"]


def shell(serial: str, command: str) -> int:
    """Run `command` on the device with this process's stdin, stdout and stderr; its exit code."""
    transport = f"host:transport:{serial}" if serial else "host:transport-any"
    with _asked(transport) as connection:
        _send(connection, f"shell,v2,raw:{command}")
        _okay(connection)
        feeder = threading.Thread(target=_feed, args=(connection,), daemon=True)
        feeder.start()
        outputs = {_STDOUT: 1, _STDERR: 2}
        while True:
            kind, size = _HEADER.unpack(exactly(connection, _HEADER.size))
            if size > _MOST_BYTES:
                raise AdbError(f"a packet of {size} bytes")
            data = exactly(connection, size)
            if kind == _EXIT:
                return data[0] if data else 0
            if kind in outputs:
                _write_all(outputs[kind], data)


def _feed(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(0, _BLOCK_BYTES):
            connection.sendall(_HEADER.pack(_STDIN, len(data)) + data)
        connection.sendall(_HEADER.pack(_CLOSE_STDIN, 0))


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _asked(service: str) -> socket.socket:
    """A connection to the adb server that has agreed to `service`."""
    host = os.environ.get("ANDROID_ADB_SERVER_ADDRESS", "127.0.0.1")  # as adb itself reads them
    port = int(os.environ.get("ANDROID_ADB_SERVER_PORT", _PORT))
    connection = socket.create_connection((host, port), _CONNECT_S)
    try:
        _send(connection, service)
        _okay(connection)
        connection.settimeout(None)
    except BaseException:
        connection.close()
        raise
    return connection


def _send(connection: socket.socket, service: str) -> None:
    word = service.encode()
    if len(word) > 0xFFFF:
        raise AdbError("a command longer than adb's protocol can say")
    connection.sendall(f"{len(word):04x}".encode() + word)


def _okay(connection: socket.socket) -> None:
    answer = exactly(connection, 4)
    if answer == b"FAIL":
        raise AdbError(_text(connection))
    if answer != b"OKAY":
        raise AdbError(f"no adb server answers there, but {answer!r}")


def _text(connection: socket.socket) -> str:
    return exactly(connection, int(exactly(connection, 4), 16)).decode(errors="replace")


def main(arguments: list[str]) -> int:
    """`SERIAL COMMAND`; an empty SERIAL is the only device there is."""
    serial, command = arguments
    try:
        return shell(serial, command)
    except (AdbError, DeviceFailure, OSError, ValueError) as error:
        print(f"adb: {error}", file=sys.stderr)
        return _LOST


if __name__ == "__main__":
    code = main(sys.argv[1:])
    # Not sys.exit: the thread that reads stdin may wait there for ever.
    os._exit(code)
