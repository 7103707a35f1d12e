"""What a request may hold, and what is said of one that may not."""

from __future__ import annotations

import pytest
from fake_llm import says, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from hetero_tvm.openai_requests import RequestError, read_request

_MODEL = says("yes")
_DOG = [{"role": "user", "content": "dog?"}]


def test_defaults_are_openais():
    wanted = read_request(_MODEL, {"messages": _DOG}, chat=True)
    assert wanted.prompt == tokenizer().chat(_DOG)
    assert wanted.options.sampling.temperature == 1.0
    assert wanted.options.max_new_tokens is None
    assert not wanted.stream


def test_every_field_arrives():
    body = {
        "model": "fake",
        "prompt": [1, 2, 3],
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": -1,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "seed": 4,
        "stop": ["x", "y"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": "somebody",
        "n": 1,
    }
    wanted = read_request(_MODEL, body, chat=False)
    sampling = wanted.options.sampling
    assert wanted.prompt == [1, 2, 3]
    assert (wanted.stream, wanted.include_usage) == (True, True)
    assert (wanted.options.max_new_tokens, wanted.options.stop_strings) == (5, ["x", "y"])
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 0)
    assert (sampling.min_p, sampling.repetition_penalty, sampling.seed) == (0.1, 1.2, 4)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([], None),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": _DOG, "max_tokens": 0}, "max_tokens"),
        ({"messages": _DOG, "max_tokens": True}, "max_tokens"),
        ({"messages": _DOG, "temperature": "hot"}, "temperature"),
        ({"messages": _DOG, "temperature": -1}, None),
        ({"messages": _DOG, "temperature": 10**400}, "temperature"),
        ({"messages": _DOG, "top_p": float("nan")}, "top_p"),
        ({"messages": _DOG, "stop": [""]}, "stop"),
        ({"messages": _DOG, "stop": ["x"] * 17}, "stop"),
        ({"messages": _DOG, "stream": "yes"}, "stream"),
        ({"messages": _DOG, "tools": [{}]}, "tools"),
        ({"messages": _DOG, "logprobs": True}, "logprobs"),
        ({"messages": _DOG, "presence_penalty": 0.5}, "presence_penalty"),
        ({"messages": _DOG, "response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": _DOG, "model": 3}, "model"),
        ({"messages": [{"role": "user", "content": "dog" * 400}]}, "messages"),
    ],
)
def test_what_cannot_be_answered_names_the_field(body, param):
    with pytest.raises(RequestError) as error:
        read_request(_MODEL, body, chat=True)
    assert error.value.param == param
    assert error.value.body()["error"]["type"] == "invalid_request_error"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
_FIELDS = (
    "messages prompt model max_tokens temperature top_p top_k min_p seed stop stream "
    "stream_options repetition_penalty n tools"
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(_FIELDS.split()), _JSON), st.booleans())
def test_no_json_does_anything_but_answer_or_refuse(body, chat):
    try:
        wanted = read_request(_MODEL, body, chat=chat)
    except RequestError:
        return
    assert wanted.prompt
