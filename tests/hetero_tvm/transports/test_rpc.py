"""Addresses of device servers, and what a client says when nobody is there."""

import socket
import threading

import pytest

from hetero_tvm.errors import BadInput, DeviceFailure
from hetero_tvm.transports import rpc


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rpc://127.0.0.1", "rpc://127.0.0.1:9180"),
        ("rpc://localhost:1234", "rpc://localhost:1234"),
        ("rpcs://board:1", "rpcs://board:1"),
    ],
)
def test_addresses(text, shown):
    assert str(rpc.parse(text)) == shown


@pytest.mark.parametrize(
    "text", ["rpc://", "rpc://me@localhost", "rpcs://board/x", "rpc://localhost:99999", "http://x"]
)
def test_what_is_none(text):
    with pytest.raises(BadInput, match="--to"):
        rpc.parse(text)


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DeviceFailure, match="Connection refused; is `hetero-tvm device_server`"):
        rpc.connect(rpc.Address("127.0.0.1", port, False))


@pytest.mark.parametrize("answer", [b"", b"\0", b"\1\5\0\0\0no"])
def test_somebody_else_there(answer):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            line, _ = listener.accept()
            with line:
                line.recv(1000)
                line.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(DeviceFailure, match="hung up"):
            rpc.connect(rpc.Address("127.0.0.1", listener.getsockname()[1], False))


def test_a_wrong_certificate_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("HETERO_RPC_CA", str(tmp_path / "none.pem"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = rpc.Address("127.0.0.1", listener.getsockname()[1], True)
        with pytest.raises(BadInput, match="HETERO_RPC_CA"):
            rpc.connect(address)
