"""The server, asked by the real `openai` client over a socket; the model is a fake."""

from __future__ import annotations

import contextlib
import threading
import time

import httpx
import pytest
from fake_llm import says, tokenizer

from hetero_tvm.errors import DeviceFailure

openai = pytest.importorskip("openai")
uvicorn = pytest.importorskip("uvicorn")

from hetero_tvm.openai_app import Limits, make_app  # noqa: E402 - after the skip

_ANSWER = "A hot dog 世界 is no dog."
_TOKEN = "a-token-for-tests-only"


class _Served:
    def __init__(self, url: str) -> None:
        self.url = url

    def client(self, token: str = "-"):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=token, max_retries=0)


@contextlib.contextmanager
def _serving(model, **settings):
    config = uvicorn.Config(make_app(model, **settings), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield _Served(f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def served():
    with _serving(says(_ANSWER)) as server:
        yield server


_DOG = [{"role": "user", "content": "dog?"}]


def test_models(served):
    client = served.client()
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").owned_by == "hetero-tvm"
    with pytest.raises(openai.NotFoundError, match="no model 'other' here"):
        client.models.retrieve("other")


def test_a_conversation(served):
    answer = served.client().chat.completions.create(model="fake", messages=_DOG, temperature=0)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", _ANSWER)
    assert choice.finish_reason == "stop"
    assert answer.usage.prompt_tokens == len(tokenizer().chat(_DOG))
    assert answer.usage.completion_tokens == len(tokenizer().encode(_ANSWER))


def test_a_conversation_as_it_comes(served):
    stream = served.client().chat.completions.create(
        model="fake",
        messages=[{"role": "user", "content": [{"type": "text", "text": "dog?"}]}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    assert last.choices == []
    assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len(chunks) > 5
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == _ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [
        "stop"
    ]
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_plain_text(served):
    client = served.client()
    answer = client.completions.create(model="fake", prompt="dog", max_tokens=3, temperature=0)
    assert answer.choices[0].text == tokenizer().decode(tokenizer().encode(_ANSWER)[:3])
    assert answer.choices[0].finish_reason == "length"
    pieces = client.completions.create(
        model="fake", prompt=[5, 6], stop="世", stream=True, temperature=0
    )
    assert "".join(piece.choices[0].text for piece in pieces) == "A hot dog "


def test_extra_fields_as_other_servers_have_them(served):
    answer = served.client().chat.completions.create(
        model="fake", messages=_DOG, temperature=9, extra_body={"top_k": 1, "min_p": 0.1}
    )
    assert answer.choices[0].message.content == _ANSWER


def test_errors_are_the_clients_own_exceptions(served):
    client = served.client()
    with pytest.raises(openai.BadRequestError, match="n is not supported") as error:
        client.chat.completions.create(model="fake", messages=_DOG, n=2)
    assert error.value.param == "n"
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="fake", prompt=[5] * 256)
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt", prompt="x")
    with pytest.raises(openai.BadRequestError, match="not a token of this model"):
        client.completions.create(model="fake", prompt=[5000])
    with pytest.raises(openai.APIError, match="not a token of this model"):
        list(client.completions.create(model="fake", prompt=[5000], stream=True))


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{", {"content-type": "application/json"}, 400),
        (b"[" * 100_000, {"content-type": "application/json"}, 400),
        (b" " * 5_000_000, {"content-type": "application/json"}, 413),
        (b"{}", {"content-type": "application/json", "host": "evil.example"}, 421),
    ],
)
def test_bodies_and_hosts_that_are_refused(served, content, headers, status):
    url = f"{served.url}/v1/completions"
    answer = httpx.post(url, content=content, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_health(served):
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok", "requests": 0}


def test_with_a_token_nothing_is_said_without_it():
    with _serving(says("yes"), token=_TOKEN) as server:
        for wrong in ("-", _TOKEN[:-1]):
            with pytest.raises(openai.AuthenticationError):
                server.client(wrong).models.list()
        with pytest.raises(openai.AuthenticationError):
            server.client().chat.completions.create(model="fake", messages=_DOG)
        assert server.client(_TOKEN).models.list().data[0].id == "fake"


class _Gate:
    """Lets steps of a model through as the test wants."""

    def __init__(self) -> None:
        self.open, self.steps = threading.Event(), 0

    def __call__(self) -> None:
        self.steps += 1
        assert self.open.wait(20)


def test_requests_take_turns_and_too_many_are_sent_away():
    gate = _Gate()
    with _serving(says("yes", on_step=gate), limits=Limits(waiting=1)) as server:
        answers: list[str] = []

        def ask() -> None:
            answer = server.client().chat.completions.create(
                model="fake", messages=_DOG, temperature=0
            )
            answers.append(answer.choices[0].message.content)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while httpx.get(f"{server.url}/health").json()["requests"] < 2:
            assert time.monotonic() < deadline
        with pytest.raises(openai.RateLimitError, match="1 requests wait already") as error:
            server.client().chat.completions.create(model="fake", messages=_DOG)
        assert error.value.response.headers["retry-after"] == "1"
        gate.open.set()
        for thread in threads:
            thread.join(timeout=20)
        assert answers == ["yes", "yes"]


def test_a_client_that_goes_away_ends_its_answer_and_frees_the_model():
    gate = _Gate()
    gate.open.set()
    slow = says(_ANSWER * 6, on_step=lambda: (gate(), time.sleep(0.02)))
    with _serving(slow) as server:
        stream = server.client().chat.completions.create(
            model="fake", messages=_DOG, temperature=0, stream=True
        )
        next(iter(stream))
        stream.close()
        time.sleep(0.3)
        steps = gate.steps
        time.sleep(0.2)
        assert gate.steps == steps < 30
        answer = server.client().chat.completions.create(
            model="fake", messages=_DOG, temperature=0, max_tokens=2
        )
        assert answer.usage.completion_tokens == 2


def test_a_device_that_fails_is_an_error_of_the_server():
    def fail() -> None:
        raise DeviceFailure("the NPU is gone")

    with _serving(says("yes", on_step=fail)) as server:
        client = server.client()
        with pytest.raises(openai.InternalServerError, match="the NPU is gone"):
            client.chat.completions.create(model="fake", messages=_DOG)
        with pytest.raises(openai.APIError, match="the NPU is gone"):
            list(client.chat.completions.create(model="fake", messages=_DOG, stream=True))
