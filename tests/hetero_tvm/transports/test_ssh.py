"""OpenSSH's client against a real server: commands, files, a line that breaks, a forwarded port."""

import socket
import threading

import numpy as np
import pytest
from ssh_server import ssh_server

from hetero_tvm.errors import BadInput, DeviceFailure
from hetero_tvm.transports.ssh import Ssh

DATA = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture
def server(tmp_path, monkeypatch):
    with ssh_server(tmp_path) as server:
        monkeypatch.setenv("HETERO_SSH", f"ssh -F {server.folder}/config")
        yield server


@pytest.fixture
def device(server):
    with Ssh("127.0.0.1", "tester", server.port) as device:
        yield device


def test_runs_commands_in_a_posix_shell(device, server):
    done = device.run("read line; echo \"got $line\"; echo 'it'\"'\"'s' >&2; exit 7", data=b"a b\n")
    assert (done.code, done.text, done.stderr) == (7, "got a b", "it's")
    assert device.check(f"echo {device.default_root()}") == f"{server.home}/.hetero_tvm"


def test_pushes_and_pulls(device, server, tmp_path):
    (tmp_path / "data").write_bytes(DATA)
    assert device.push(tmp_path / "data", f"{server.home}/a b/file") == len(DATA)
    assert (server.home / "a b" / "file").read_bytes() == DATA
    device.pull(f"{server.home}/a b/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == DATA
    assert device.free_bytes(str(server.home)) > 1 << 20


def test_a_push_that_lost_the_line_goes_on_where_it_stopped(device, server):
    server.cut_after(1_000_000)
    with pytest.raises(DeviceFailure, match=r"not reached.*goes on where this one stopped"):
        device.push(DATA, f"{server.home}/file")
    server.cut_after(None)
    assert not (server.home / "file").exists()
    arrived = (server.home / "file.part").stat().st_size
    assert 0 < arrived < len(DATA)
    assert device.push(DATA, f"{server.home}/file") == len(DATA) - arrived
    assert (server.home / "file").read_bytes() == DATA


def test_forwards_a_port(device):
    with socket.create_server(("127.0.0.1", 0)) as echo:

        def serve():
            for _ in range(2):  # the look whether it is up, and ours
                connection, _ = echo.accept()
                with connection:
                    word = connection.recv(16)
                    connection.sendall(word.upper())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with (
            device.forward(echo.getsockname()[1]) as port,
            socket.create_connection(("127.0.0.1", port), 5) as connection,
        ):
            connection.sendall(b"hello")
            assert connection.recv(16) == b"HELLO"


def test_a_wrong_user_a_dead_port_and_an_option_for_a_host(server):
    with (
        Ssh("127.0.0.1", "somebody", server.port) as device,
        pytest.raises(DeviceFailure, match=r"Permission denied.*ssh-copy-id"),
    ):
        device.run("true")
    with (
        Ssh("127.0.0.1", "tester", 1) as device,
        pytest.raises(DeviceFailure, match=r"Connection refused.*is an ssh server running"),
    ):
        device.run("true")
    for host in ("-oProxyCommand=touch x", "a b", "$(id)"):
        with pytest.raises(BadInput, match=r"no host"):
            Ssh(host)


def test_a_shared_connection_that_ends_when_it_is_asked_for_is_opened_again(tmp_path, monkeypatch):
    client = tmp_path / "ssh"
    client.write_text(
        "#!/bin/sh\n"
        f"[ -e {tmp_path}/tried ] && {{ echo fine; exit 0; }}; : >{tmp_path}/tried\n"
        'echo "mux_client_request_alive: write packet: Broken pipe" >&2; exit 255\n'
    )
    client.chmod(0o755)
    monkeypatch.setenv("HETERO_SSH", str(client))
    with Ssh("board") as device:
        assert device.check("echo fine") == "fine"
