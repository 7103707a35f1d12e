"""adb's protocol against a stand-in for its server: commands, files, refusals, garbage."""

import socket
import threading

import numpy as np
import pytest
from adb_server import SERIAL, adb_server

from hetero_tvm.errors import BadInput, DeviceFailure
from hetero_tvm.transports import adb
from hetero_tvm.transports.adb import Adb, serials

DATA = np.random.default_rng(2).bytes(1_500_000)


@pytest.fixture
def server(tmp_path, monkeypatch):
    with adb_server(tmp_path, monkeypatch) as process:
        yield process


@pytest.fixture
def device(server):
    return Adb(SERIAL)


def test_lists_what_is_ready(server):
    assert serials() == [SERIAL]


def test_keeps_stdout_stderr_and_the_exit_code_apart(device):
    done = device.run("cat; echo oops >&2; exit 9", data=b"in\0\xff and out")
    assert (done.code, done.stdout, done.stderr) == (9, b"in\0\xff and out", "oops")
    assert Adb().check("echo any") == "any"


def test_pushes_and_pulls(device, tmp_path):
    root = device.default_root()
    assert device.push(DATA, f"{root}/file") == len(DATA)
    assert (tmp_path / "hetero_tvm" / "file").read_bytes() == DATA
    device.pull(f"{root}/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == DATA
    assert device.free_bytes(root) > 0


def test_forwards_a_port(device):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(connection.recv(16).upper())

        threading.Thread(target=serve, daemon=True).start()
        with (
            device.forward(listener.getsockname()[1]) as port,
            socket.create_connection(("127.0.0.1", port), 5) as connection,
        ):
            connection.sendall(b"hello")
            assert connection.recv(16) == b"HELLO"


def test_refusals_are_in_its_words(server, tmp_path):
    with pytest.raises(DeviceFailure, match=r"adb:none: not reached: adb: device 'none' not found"):
        Adb("none").run("true")
    (tmp_path / "device_offline").touch()
    with pytest.raises(DeviceFailure, match="device offline; see `adb devices`"):
        Adb(SERIAL).run("true")
    with pytest.raises(BadInput, match="no serial number"):
        Adb("a b")


def test_no_server(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(taken.getsockname()[1]))
    assert serials() == []
    with pytest.raises(DeviceFailure, match="Connection refused; start the adb server"):
        Adb().run("true")


def test_a_server_that_dies_in_mid_push(device, server):
    seen = []

    def meter(count):
        seen.append(count)
        if len(seen) == 2:
            server.kill()

    with pytest.raises(DeviceFailure, match="goes on where this one stopped"):
        device.push(DATA * 4, f"{device.default_root()}/file", meter=meter)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"OKAYzzzz", b"FAILffff", b""]
)
def test_who_is_no_adb_server(answer, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(64)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(listener.getsockname()[1]))
        with pytest.raises((adb.AdbError, ValueError, OSError)):
            with adb._asked("host:devices") as connection:
                adb._text(connection)
