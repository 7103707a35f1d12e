"""The verb: who may reach it, and that Ctrl-C ends it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hetero_tvm import serve
from hetero_tvm.errors import BadInput

_ROOT = Path(__file__).parents[2]
_PROGRAM = """
import argparse, sys, time
sys.path.insert(0, "tests/hetero_tvm")
from fake_llm import says
from hetero_tvm import serve, text_model
model = says("yes" * 200)
decode = model.session.decode
def slowly(token):
    time.sleep(0.05)
    return decode(token)
if "slow" in sys.argv:
    sys.argv.remove("slow")
    model.session.decode = slowly
else:
    model = says("yes")
text_model.open_text_model = lambda path, device: model
parser = argparse.ArgumentParser()
serve.add_arguments(parser)
parser.set_defaults(quiet=False, verbose=0, json=True)
sys.exit(serve.run(parser.parse_args(sys.argv[1:])))
"""


def _start(*argv: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    environment.pop("HETERO_SERVE_TOKEN", None)
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, "model.so", *argv],
        cwd=_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped(number):
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("uvicorn")
    with _start("--port", "0", "--name", "dog") as process:
        try:
            line = process.stderr.readline()
            assert line.startswith("serving dog on http://127.0.0.1:"), line
            url = line.split(" on ")[1].split(";")[0]
            told = "".join(process.stdout.readline() for _ in range(6))
            assert json.loads(told) == {
                "schema_version": 1, "verb": "serve", "name": "dog", "url": url
            }  # fmt: skip
            for _ in range(100):
                try:
                    names = [model["id"] for model in httpx.get(f"{url}/models").json()["data"]]
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            assert names == ["dog"]
            process.send_signal(number)
            process.wait(timeout=20)
        finally:
            process.kill()
    assert process.returncode in (0, -number)
    assert signal.SIGINT != number or process.returncode == 0


def _served(process) -> str:
    line = process.stderr.readline()
    assert line.startswith("serving "), line + process.stderr.read()
    for _ in range(6):
        process.stdout.readline()
    return line.split(" on ")[1].split(";")[0]


def _reached(httpx, url) -> None:
    for _ in range(200):
        try:
            httpx.get(f"{url}/models")
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"{url}: nobody listens")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_server_that_ends_in_mid_answer_leaves_nobody_waiting(number):
    """The client is told at once, and the next server has the port and answers whole."""
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("uvicorn")
    with _start("--port", "0", "slow") as process:
        try:
            url = _served(process)
            _reached(httpx, url)
            asked = {
                "model": "fake",
                "messages": [{"role": "user", "content": "dog?"}],
                "stream": True,
                "max_tokens": 500,
            }
            begun = time.monotonic()
            with httpx.stream("POST", f"{url}/chat/completions", json=asked, timeout=30) as answer:
                lines = answer.iter_lines()
                assert next(lines).startswith("data: ")
                process.send_signal(number)
                rest = []
                try:
                    rest = [line for line in lines if line]
                except httpx.TransportError as error:
                    rest.append(str(error))
            assert time.monotonic() - begun < 25
            process.wait(timeout=20)
        finally:
            process.kill()
    assert process.returncode in ((0, -number) if number == signal.SIGINT else (-number,))
    assert rest
    assert signal.SIGKILL != number or "[DONE]" not in rest[-1]
    port = url.rsplit(":", 1)[1].split("/")[0]
    with _start("--port", port) as process:
        try:
            assert _served(process) == url
            _reached(httpx, url)
            asked = {"model": "fake", "messages": [{"role": "user", "content": "dog?"}]}
            answer = httpx.post(f"{url}/chat/completions", json=asked, timeout=30).json()
            assert answer["choices"][0]["message"]["content"] == "yes"
        finally:
            process.kill()


def test_other_machines_need_a_token():
    with _start("--host", "0.0.0.0", "--port", "0") as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "can be reached from other machines: give --token-file" in said


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("localhost.example", False),
    ],
)
def test_which_addresses_are_this_machines_own(host, answer):
    assert serve.is_loopback(host) == answer


def test_tokens(tmp_path, monkeypatch):
    monkeypatch.delenv("HETERO_SERVE_TOKEN", raising=False)
    assert serve.read_token(None) is None
    monkeypatch.setenv("HETERO_SERVE_TOKEN", "0123456789abcdef")
    assert serve.read_token(None) == "0123456789abcdef"
    file = tmp_path / "token"
    file.write_text("another-token-of-mine\n")
    assert serve.read_token(file) == "another-token-of-mine"
    file.write_text("short")
    with pytest.raises(BadInput, match="at least 16"):
        serve.read_token(file)
    with pytest.raises(BadInput, match="No such file"):
        serve.read_token(tmp_path / "none")


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"cannot listen on 127.0.0.1, port {port}"):
            serve.listen("127.0.0.1", port)
    with pytest.raises(BadInput, match="port 99999"):
        serve.listen("127.0.0.1", 99999)
