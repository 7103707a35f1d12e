"""OpenAI's interface over one language model, as an ASGI application.

    POST /v1/chat/completions    POST /v1/completions    GET /v1/models    GET /health

There is one session, so requests are answered one after the other; some may wait, the rest are told
to come again. A request whose client went away ends before its next token.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from hetero_tvm.completion import Completion, usage
from hetero_tvm.errors import BadInput, HeteroError
from hetero_tvm.openai_requests import RequestError, Wanted, error_body, read_request
from hetero_tvm.text_model import TextModel

_LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}
_Endpoint = Callable[[Request], Awaitable[Response]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server takes on."""

    body_bytes: int = 4 << 20
    waiting: int = 8  # requests that wait while one is answered


def make_app(
    model: TextModel,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Starlette:
    """The application.

    Args:
        model: what answers.
        token: that requests must carry (`Authorization: Bearer …`). Without one, only requests to
            a name of this machine are answered, so that no web page can reach it by a name of its
            own that it points here.
        limits: see there.
        note: gets a line for each answer.
    """
    server = _Server(model, token, limits or Limits(), note)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", server.guarded(server.chat), methods=["POST"]),
            Route("/v1/completions", server.guarded(server.complete), methods=["POST"]),
            Route("/v1/models", server.guarded(server.models)),
            Route("/v1/models/{name:path}", server.guarded(server.model)),
            Route("/health", server.guarded(server.health)),
        ]
    )


class _Server:
    def __init__(
        self, model: TextModel, token: str | None, limits: Limits, note: Callable[[str], None]
    ) -> None:
        self.text_model, self.limits, self.note = model, limits, note
        self._token = token
        self._turn = asyncio.Lock()
        self._present = 0  # requests that are answered or wait
        self._created = int(time.time())

    def guarded(self, endpoint: _Endpoint) -> _Endpoint:
        """`endpoint` behind the checks of every request, with errors in OpenAI's form."""

        async def answer(request: Request) -> Response:
            try:
                self._check_caller(request)
                return await endpoint(request)
            except RequestError as error:
                headers = {"Retry-After": "1"} if error.status == 429 else None
                return JSONResponse(error.body(), error.status, headers)
            except HeteroError as error:
                return JSONResponse(_failure(error), 400 if isinstance(error, BadInput) else 500)

        return answer

    def _check_caller(self, request: Request) -> None:
        if self._token is not None:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode(), self._token.encode())
            if scheme.lower() != "bearer" or not right:
                raise RequestError(
                    "a wrong or missing token: send Authorization: Bearer TOKEN",
                    status=401,
                    code="invalid_api_key",
                )
            return
        try:
            name = urlsplit("//" + request.headers.get("host", "")).hostname
        except ValueError:
            name = None
        if name not in _LOCAL_NAMES:
            raise RequestError(f"no host {name!r} here", status=421)

    async def health(self, _request: Request) -> Response:
        """Is the server up, and how many requests does it answer or keep waiting?"""
        return JSONResponse({"status": "ok", "requests": self._present})

    async def models(self, _request: Request) -> Response:
        """The one model."""
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        """The one model, by its name."""
        name = request.path_params["name"]
        if name != self.text_model.name:
            raise RequestError(f"no model {name!r} here", status=404, code="model_not_found")
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        return {
            "id": self.text_model.name,
            "object": "model",
            "created": self._created,
            "owned_by": "hetero-tvm",
            "context_length": self.text_model.session.capacity,
        }

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self._answer(request, _CHAT)

    async def complete(self, request: Request) -> Response:
        """Continue a text."""
        return await self._answer(request, _PLAIN)

    async def _answer(self, request: Request, form: _Form) -> Response:
        body = await self._body(request)
        wanted = await run_in_threadpool(read_request, self.text_model, body, chat=form is _CHAT)
        if self._present > self.limits.waiting:
            raise RequestError(
                f"{self.limits.waiting} requests wait already; try again later",
                status=429,
                code="rate_limit_exceeded",
            )
        head = {
            "id": f"{form.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self.text_model.name,
        }
        completion = self.text_model.complete(wanted.prompt, wanted.options)
        if wanted.stream:
            return StreamingResponse(
                self._events(completion, wanted, form, head), media_type="text/event-stream"
            )
        text = []
        async with contextlib.aclosing(self._pieces(completion)) as pieces:
            async for piece in pieces:
                text.append(piece)
                if await request.is_disconnected():
                    return Response(status_code=499)
        return JSONResponse(
            {
                **head,
                "object": form.whole,
                "choices": [form.choice("".join(text), completion.finish_reason)],
                "usage": usage(completion, wanted.prompt),
            }
        )

    async def _events(
        self, completion: Completion, wanted: Wanted, form: _Form, head: dict[str, Any]
    ) -> AsyncGenerator[str, None]:
        """The answer as server-sent events. If the client goes away, this is closed."""
        head = {**head, "object": form.part}
        if wanted.include_usage:
            head["usage"] = None
        try:
            if form.start is not None:
                yield _event({**head, "choices": [form.start]})
            async with contextlib.aclosing(self._pieces(completion)) as pieces:
                async for piece in pieces:
                    if piece:
                        yield _event({**head, "choices": [form.delta(piece, None)]})
        except HeteroError as error:
            yield _event(_failure(error))
            return
        yield _event({**head, "choices": [form.delta("", completion.finish_reason)]})
        if wanted.include_usage:
            yield _event({**head, "choices": [], "usage": usage(completion, wanted.prompt)})
        yield "data: [DONE]\n\n"

    async def _pieces(self, completion: Completion) -> AsyncGenerator[str, None]:
        """The completion, token by token, when its turn has come."""
        self._present += 1
        try:
            async with self._turn:
                # Each step runs to its end in a thread, even where this is cancelled: nobody else
                # may touch the session meanwhile.
                async for piece in iterate_in_threadpool(completion):
                    yield piece
                self._note(completion)
        finally:
            self._present -= 1

    def _note(self, completion: Completion) -> None:
        timing = completion.timing
        rate = timing.decode_tokens_per_s
        self.note(
            f"{timing.reused_tokens} + {timing.prefill_tokens} tokens in, "
            f"{len(completion.tokens)} out, first after {timing.ttft_s:.2f} s"
            + (f", {rate:.1f} token/s" if rate else "")
        )

    async def _body(self, request: Request) -> Any:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RequestError("send application/json", status=415)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.limits.body_bytes:
                raise RequestError(
                    f"more than {self.limits.body_bytes} bytes in one request", status=413
                )
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the body is not JSON: {error}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Form:
    """How the two kinds of answers differ."""

    prefix: str
    whole: str
    part: str
    choice: Callable[[str, str], dict[str, Any]]
    delta: Callable[[str, str | None], dict[str, Any]]
    start: dict[str, Any] | None


def _choice(reason: str | None, **fields: Any) -> dict[str, Any]:
    return {"index": 0, **fields, "logprobs": None, "finish_reason": reason}


_CHAT = _Form(
    prefix="chatcmpl",
    whole="chat.completion",
    part="chat.completion.chunk",
    choice=lambda text, reason: _choice(reason, message={"role": "assistant", "content": text}),
    delta=lambda text, reason: _choice(reason, delta={"content": text} if text else {}),
    start=_choice(None, delta={"role": "assistant", "content": ""}),
)
_PLAIN = _Form(
    prefix="cmpl",
    whole="text_completion",
    part="text_completion",
    choice=lambda text, reason: _choice(reason, text=text),
    delta=lambda text, reason: _choice(reason, text=text),
    start=None,
)


def _failure(error: HeteroError) -> dict[str, Any]:
    """What the model itself says while it runs; the request's fault or the device's."""
    kind = "invalid_request_error" if isinstance(error, BadInput) else "server_error"
    return error_body(str(error), kind)


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
