"""Requests of OpenAI's interface, read and checked; what is not supported is refused, not ignored.

Fields beside OpenAI's own, as other servers have them: `top_k`, `min_p`, `repetition_penalty`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from hetero_tvm.completion import Options
from hetero_tvm.errors import BadInput, RequestRefused
from hetero_tvm.sampling import Sampling
from hetero_tvm.text_model import TextModel

_MAX_STOPS = 16
# Field -> the values that ask for nothing.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "audio": (),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
}


class RequestError(RequestRefused):
    """A request that cannot be answered."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """As OpenAI's clients expect it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return error_body(str(self), kind, self.param, self.code)


def error_body(
    message: str, kind: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's form of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """A checked request."""

    prompt: list[int]
    options: Options
    stream: bool
    include_usage: bool


def read_request(model: TextModel, body: Any, *, chat: bool) -> Wanted:
    """Check the JSON document `body`, and turn its text into tokens.

    Raises:
        RequestError: with the status and the field that is wrong.
    """
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    name = body.get("model", model.name)
    if name != model.name:
        raise RequestError(
            f"no model {name!r} here, only {model.name!r}",
            status=404,
            param="model",
            code="model_not_found",
        )
    for field, idle in _UNSUPPORTED.items():
        value = body.get(field)
        if value is not None and value not in idle:
            raise RequestError(f"{field} is not supported", param=field, code="unsupported")
    try:
        prompt = _chat(model, body) if chat else _plain(model, body)
        options = _options(body)
    except RequestError:
        raise
    except BadInput as error:
        raise RequestError(str(error)) from error
    capacity = model.session.capacity
    if len(prompt) >= capacity:
        raise RequestError(
            f"the prompt has {len(prompt)} tokens; prompt and answer together may have {capacity}",
            param="messages" if chat else "prompt",
            code="context_length_exceeded",
        )
    if not prompt:
        raise RequestError("the prompt is empty", param="prompt")
    stream = _typed(body, "stream", bool, False)
    extra = _typed(body, "stream_options", dict, {})
    return Wanted(
        prompt=prompt,
        options=options,
        stream=stream,
        include_usage=stream and bool(extra.get("include_usage")),
    )


def _options(body: Mapping[str, Any]) -> Options:
    most = _typed(body, "max_completion_tokens", int, None)
    if most is None:
        most = _typed(body, "max_tokens", int, None)
    if most is not None and most < 1:
        raise RequestError("max_tokens: at least 1", param="max_tokens")
    stops = body.get("stop") or []
    stops = [stops] if isinstance(stops, str) else stops
    if (
        not isinstance(stops, list)
        or len(stops) > _MAX_STOPS
        or not all(isinstance(stop, str) and stop for stop in stops)
    ):
        raise RequestError(f"stop: a text, or at most {_MAX_STOPS} in a list", param="stop")
    seed = _typed(body, "seed", int, None)
    return Options(
        max_new_tokens=most,
        stop_strings=stops,
        sampling=Sampling(
            temperature=_number(body, "temperature", 1.0),
            top_p=_number(body, "top_p", 1.0),
            top_k=max(0, _typed(body, "top_k", int, 0)),  # other servers write -1 for all
            min_p=_number(body, "min_p", 0.0),
            repetition_penalty=_number(body, "repetition_penalty", 1.0),
            seed=None if seed is None else abs(seed),
        ),
    )


def _chat(model: TextModel, body: Mapping[str, Any]) -> list[int]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages: a list with at least one message", param="messages")
    return model.chat([_message(message) for message in messages])


def _message(message: Any) -> dict[str, Any]:
    """Role and text; a text may come in parts."""
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str):
        raise RequestError("messages: each has a role and a content", param="messages")
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        for part in parts
    ]
    words = [text for text in texts if isinstance(text, str)]
    if len(words) < len(texts):
        raise RequestError("messages: only text is supported as content", param="messages")
    return {"role": role, "content": "".join(words)}


def _plain(model: TextModel, body: Mapping[str, Any]) -> list[int]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return model.plain(prompt)
    if (
        isinstance(prompt, list)
        and prompt
        and all(isinstance(token, int) and not isinstance(token, bool) for token in prompt)
    ):
        return prompt
    raise RequestError("prompt: one text, or one list of token ids", param="prompt")


def _typed(body: Mapping[str, Any], field: str, kind: type, default: Any) -> Any:
    value = body.get(field)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RequestError(f"{field}: expected {kind.__name__}", param=field)
    return value


def _number(body: Mapping[str, Any], field: str, default: float) -> float:
    value = body.get(field)
    if value is None:
        return default
    if not isinstance(value, bool) and isinstance(value, int | float):
        with contextlib.suppress(OverflowError):  # a whole number that no float is
            if math.isfinite(value):
                return float(value)
    raise RequestError(f"{field}: expected a number", param=field)
