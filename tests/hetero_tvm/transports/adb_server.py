"""A stand-in for adb's server with one device, which is a shell of this machine.

    python adb_server.py FOLDER        prints its port; FOLDER is the device's /data/local/tmp

It speaks what adb's documents say of the server (OVERVIEW.TXT, SERVICES.TXT, shell_protocol.h) and
nothing that only our client would understand. `device_offline` in FOLDER: FAIL to every transport.
"""

import contextlib
import os
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from pathlib import Path

SERIAL = "emulator-5554"


class _Handler(socketserver.BaseRequestHandler):
    def handle(self):
        with contextlib.suppress(OSError, ValueError):
            while self.one(self.read(int(self.read(4), 16)).decode()):
                pass

    def read(self, size):
        data = b""
        while len(data) < size:
            more = self.request.recv(size - len(data))
            if not more:
                raise ValueError("gone")
            data += more
        return data

    def okay(self, text=None):
        self.request.sendall(b"OKAY")
        if text is not None:
            self.request.sendall(f"{len(text):04x}{text}".encode())

    def fail(self, text):
        self.request.sendall(f"FAIL{len(text):04x}{text}".encode())

    def one(self, service):
        """Answer one request; whether another may follow on this connection."""
        folder = self.server.folder
        if service == "host:devices":
            self.okay(f"{SERIAL}\tdevice\nother\tunauthorized\n")
        elif service in (f"host:transport:{SERIAL}", "host:transport-any"):
            if (folder / "device_offline").exists():
                self.fail("device offline")
                return False
            self.okay()
            return True
        elif service.startswith("host:transport:"):
            self.fail(f"device '{service.rpartition(':')[2]}' not found")
        elif service.startswith("shell,v2,raw:"):
            self.okay()
            self.shell(service.partition("raw:")[2])
        elif "forward:tcp:0;tcp:" in service:
            port = int(service.rpartition(":")[2])
            self.okay()
            self.okay(str(self.forward(port)))
        elif ":killforward:" in service:
            self.okay()
        else:
            self.fail(f"unknown host service '{service}'")
        return False

    def shell(self, command):
        process = subprocess.Popen(
            ["sh", "-c", command.replace("/data/local/tmp", str(self.server.folder))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        lock = threading.Lock()

        def send(kind, data):
            with lock, contextlib.suppress(OSError):
                self.request.sendall(struct.pack("<BI", kind, len(data)) + data)

        def copy(kind, stream):
            while data := os.read(stream.fileno(), 1 << 16):
                send(kind, data)

        def feed():
            with contextlib.suppress(OSError, ValueError):
                while True:
                    kind, size = struct.unpack("<BI", self.read(5))
                    data = self.read(size)
                    if kind == 3 + 1:
                        break
                    process.stdin.write(data)
                    process.stdin.flush()
            with contextlib.suppress(OSError):
                process.stdin.close()

        threads = [
            threading.Thread(target=copy, args=(1, process.stdout)),
            threading.Thread(target=copy, args=(2, process.stderr)),
        ]
        threading.Thread(target=feed, daemon=True).start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        send(3, bytes([process.wait() & 0xFF]))

    def forward(self, port):
        """Lead one connection to `port`."""
        listener = socket.create_server(("127.0.0.1", 0))

        def serve():
            while True:
                mine, _ = listener.accept()
                with contextlib.suppress(OSError):
                    theirs = socket.create_connection(("127.0.0.1", port))
                    for a, b in ((mine, theirs), (theirs, mine)):
                        threading.Thread(target=_pump, args=(a, b), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        return listener.getsockname()[1]


def _pump(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, folder):
        self.folder = folder
        super().__init__(("127.0.0.1", 0), _Handler)


@contextlib.contextmanager
def running(folder):
    """The server is up: its process, and its port."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
        process.stdin.close()


@contextlib.contextmanager
def adb_server(folder, monkeypatch):
    """The server is up, and clients of this process find it."""
    with running(folder) as (process, port):
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        yield process


if __name__ == "__main__":
    server = _Server(Path(sys.argv[1]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()  # until the test is gone
