"""Who gets in, what the others get (nothing), and that none of them harms those who are in."""

import contextlib
import json
import os
import platform
import socket
import ssl
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import trustme

from hetero_tvm import cli, reference
from hetero_tvm.errors import BadInput, DeviceFailure
from hetero_tvm.open_model import opened
from hetero_tvm.transports import rpc


class Running:
    """A device server in a process of its own."""

    def __init__(self, folder, *words):
        self.folder = folder
        command = [sys.executable, "-m", "hetero_tvm.device_server", "--folder", str(folder)]
        self._log = (folder.parent / f"{folder.name}.log").open("w+")
        self.process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", "--json", *words],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        text = ""
        while not text.endswith("}\n"):
            text += self.process.stdout.readline() or pytest.fail(self.log())
        self.port = json.loads(text)["port"]

    def log(self):
        self._log.flush()
        return Path(self._log.name).read_text()

    def token(self):
        return (self.folder / "token").read_text()

    def talk(self, data, *, wait_s=5):
        """Say `data`; what comes back until the server hangs up."""
        with socket.create_connection(("127.0.0.1", self.port), wait_s) as line:
            line.sendall(data)
            answer = b""
            with contextlib.suppress(OSError):  # it hung up before all was said
                line.shutdown(socket.SHUT_WR)
                while more := line.recv(1 << 16):
                    answer += more
            return answer

    def stop(self):
        self.process.terminate()
        self.process.wait(15)
        self.process.stdout.close()
        self._log.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("server") / "folder")
    yield running
    running.stop()


@pytest.fixture
def let_in(server, monkeypatch):
    monkeypatch.setenv("HETERO_RPC_TOKEN", server.token())
    return f"rpc://127.0.0.1:{server.port}"


def hello(token):
    text = json.dumps({"token": token}).encode()
    return rpc.MAGIC + rpc.LENGTH.pack(len(text)) + text


def runs(deployed_here, address):
    x = np.random.default_rng().standard_normal((4, 32), np.float32)
    wanted = reference.compute(deployed_here.model, {"x": x})["y"]
    with opened(deployed_here.artefact, address) as model:
        np.testing.assert_allclose(model.run({"x": x})["y"], wanted, rtol=1e-4, atol=1e-5)


def test_the_token_is_its_owners_alone(server):
    assert (server.folder / "token").stat().st_mode & 0o777 == 0o600
    assert len(server.token()) >= 32


def test_a_model_runs_there_as_here(server, let_in, deployed_here, capsys):
    words = ["run", str(deployed_here.artefact), "--to", let_in]
    assert cli.main([*words, "--compare", str(deployed_here.model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["held"]
    runs(deployed_here, let_in)  # again: the file is there


def test_strangers_get_nothing_and_kill_nothing(server, let_in, deployed_here):
    huge = rpc.MAGIC + struct.pack("<I", 0xFFFFFFFF)
    strangers = {
        "port scanner": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "stock TVM client": struct.pack("<ii", 0xFF271, 10) + b"client:any",
        "random bytes": np.random.default_rng(0).bytes(100_000),
        "TLS to a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        "nothing": b"",
        "half a magic": rpc.MAGIC[:5],
        "truncated greeting": hello(server.token())[:-3],
        "4 GB greeting": huge,
        "no JSON": rpc.MAGIC + rpc.LENGTH.pack(4) + b"{{{{",
        "nests without end": rpc.MAGIC + rpc.LENGTH.pack(4000) + b"[" * 4000,
        "a list": rpc.MAGIC + rpc.LENGTH.pack(2) + b"[]",
    }
    with opened(deployed_here.artefact, let_in) as model:  # one who is in meanwhile
        x = np.ones((4, 32), np.float32)
        before = model.run({"x": x})["y"]
        for name, data in strangers.items():
            try:
                answer = server.talk(data)
            except ConnectionError:  # it hung up before all was said
                answer = b""
            assert answer == b"", f"{name} got {answer!r}"
        np.testing.assert_array_equal(model.run({"x": x})["y"], before)
    assert server.process.poll() is None


@pytest.mark.parametrize("token", ["", "wrong", None, 3, "ä", "\ud800"])
def test_a_wrong_token(server, let_in, deployed_here, token):
    answer = server.talk(hello(token))
    assert answer[:1] == b"\1" and b"wrong token" in answer


def test_a_wrong_token_in_words(server, monkeypatch, deployed_here):
    monkeypatch.setenv("HETERO_RPC_TOKEN", "x" * 43)
    with pytest.raises(DeviceFailure, match=r"rpc://127.*: wrong token: put that of"):
        runs(deployed_here, f"rpc://127.0.0.1:{server.port}")


def test_it_is_listed_with_what_its_machine_is(server, let_in, monkeypatch, capsys):
    assert cli.main(["devices", "--to", let_in, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["devices"]
    facts = found["facts"]
    assert found["address"] == facts["where"] == let_in
    assert facts["machine"] == platform.machine() and facts["memory_bytes"] > 1 << 28
    assert facts["storage_free_bytes"] > 0 and facts["opencl"] and facts["gpu_driver"]
    assert not any("OpenCL" in line for line in facts["missing"])
    monkeypatch.setenv("HETERO_RPC_TOKEN", "another")
    assert cli.main(["devices", "--to", let_in]) == 4
    assert "not reached: " in (said := capsys.readouterr().out) and "wrong token" in said


def test_one_session_at_a_time(server, let_in, deployed_here):
    with opened(deployed_here.artefact, let_in):
        with pytest.raises(DeviceFailure, match="busy: another session is running"):
            runs(deployed_here, let_in)
    wait_until_free(server, deployed_here, let_in)


def wait_until_free(server, deployed_here, address):
    for _ in range(20):
        try:
            return runs(deployed_here, address)
        except DeviceFailure as error:
            assert "busy" in str(error), server.log()
            time.sleep(0.5)
    pytest.fail(server.log())


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(struct.pack("<Q", 1000) + b"short", id="truncated_message"),
        pytest.param(struct.pack("<Q", 4 << 30), id="4_GB_message"),
        pytest.param(struct.pack("<Q", 64) + b"\xff" * 64, id="garbage_message"),
        pytest.param(struct.pack("<Q", 1 << 63), id="longest_length", marks=pytest.mark.nightly),
        pytest.param(b"", id="hangs_up", marks=pytest.mark.nightly),
    ],
)
def test_who_is_in_and_misbehaves_ends_only_their_own_session(server, let_in, deployed_here, after):
    answer = server.talk(hello(server.token()) + after, wait_s=30)
    assert answer[:5] == b"\0\0\0\0\0"
    wait_until_free(server, deployed_here, let_in)
    assert server.process.poll() is None


@pytest.fixture
def authority(tmp_path):
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("server", "client"):
        made.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            tmp_path / f"{name}.pem"
        )
    return tmp_path


def test_tls_with_a_clients_certificate(authority, tmp_path, monkeypatch, deployed_here):
    certificates = ["--cert", str(authority / "server.pem"), "--client-ca"]
    running = Running(tmp_path / "folder", *certificates, str(authority / "ca.pem"))
    address = f"rpcs://127.0.0.1:{running.port}"
    try:
        with pytest.raises(DeviceFailure, match="certificate verify failed"):
            runs(deployed_here, address)
        monkeypatch.setenv("HETERO_RPC_CA", str(authority / "ca.pem"))
        with pytest.raises(DeviceFailure):  # no certificate of its own
            runs(deployed_here, address)
        assert b"token" not in running.talk(hello("x"))  # plain words to a TLS port
        monkeypatch.setenv("HETERO_RPC_CERT", str(authority / "client.pem"))
        runs(deployed_here, address)
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--listen", "0.0.0.0:0"], "only by TLS: give --cert and --key"),
        (["--listen", "nowhere"], "write an address and a port"),
        (["--listen", "127.0.0.1:99999"], "write an address and a port, as in 127.0.0.1:9180"),
        (["--key", "x"], "go with --cert"),
        (["--cert", "none.pem"], "--cert, --key or --client-ca"),
        (["--most-bytes", "5"], "at least 65536"),
    ],
)
def test_bad_input(words, said, tmp_path, capsys):
    assert cli.main(["device_server", "--folder", str(tmp_path), *words]) == 2
    assert said in capsys.readouterr().err


def test_plain_lines_go_nowhere_else():
    with pytest.raises(BadInput, match="nothing is sent to another machine in plain; use rpcs"):
        rpc.parse("rpc://192.0.2.1:9180")
    assert ssl.HAS_TLSv1_3 and os.name == "posix"


def test_the_doctor_asks_it_too(opencl, let_in, capsys):
    assert cli.main(["doctor", "--to", let_in, "--json"]) == 0
    by_name = {r["name"]: r for r in json.loads(capsys.readouterr().out)["results"]}
    assert by_name["memory"]["facts"]["free_bytes"] > 0
    assert "product right" in by_name["split product"]["words"]
