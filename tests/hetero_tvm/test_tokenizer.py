"""Text into tokens and back, piece by piece, and chat templates from strangers."""

from __future__ import annotations

import json

import pytest
from fake_llm import END, tokenizer, tokenizer_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from hetero_tvm.errors import BadInput
from hetero_tvm.tokenizer import Tokenizer

_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=60)


@settings(max_examples=200, deadline=None)
@given(_TEXTS | st.text("ab 👩‍👩‍👧‍👦é世界", max_size=40))
def test_pieces_add_up_to_the_text_and_hold_no_half_character(text):
    words = tokenizer()
    stream = words.stream()
    tokens = words.encode(text)
    pieces = [stream.push(token) for token in tokens] + [stream.finish()]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_is_shown_when_it_is_whole():
    words = tokenizer()
    stream = words.stream()
    tokens = words.encode("😀")
    assert len(tokens) > 1
    assert [stream.push(token) for token in tokens] == [""] * (len(tokens) - 1) + ["😀"]


def test_a_character_that_never_becomes_whole_is_left_out():
    words = tokenizer()
    stream = words.stream()
    shown = [stream.push(token) for token in [*words.encode("dog"), words.encode("😀")[0]]]
    assert "".join(shown) + stream.finish() == "dog"


def test_bytes_that_are_no_text_do_not_hold_back_what_follows():
    words = tokenizer()
    stream = words.stream()
    half = words.encode("😀")[0]
    shown = "".join(map(stream.push, [half] * 9 + words.encode(" dog")))
    assert shown.endswith(" dog")


def test_special_tokens_are_read_but_not_shown():
    words = tokenizer()
    (end,) = words.stop_tokens
    assert words.encode(f"dog{END}")[-1] == end
    assert words.decode([*words.encode("dog"), end]) == "dog"


def test_a_conversation_ends_where_the_answer_begins():
    messages = [{"role": "user", "content": "hot dog?"}]
    words = tokenizer()
    assert words.render(messages) == f"<|user|>hot dog?{END}<|assistant|>"
    assert words.chat(messages) == words.encode(words.render(messages))


def _with_template(template) -> Tokenizer:
    return Tokenizer({**tokenizer_texts(), "chat_template.jinja": template})


def test_a_template_of_its_own_comes_before_the_one_in_the_configuration():
    assert _with_template("{{ messages | length }} {{ eos_token }}").render([]) == f"0 {END}"


def test_the_default_of_several_templates():
    several = [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]
    config = json.dumps({"chat_template": several})
    assert Tokenizer({**tokenizer_texts(), "tokenizer_config.json": config}).render([]) == "d"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for %}", "the model's chat template"),
        ("{{ messages.__class__.__mro__ }}", "refuses the messages"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "refuses the messages"),
        ("{% for i in range(10000000) %}{% endfor %}", "refuses the messages"),
        ("{{ messages[7].content.x }}", "refuses the messages"),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_refused(template, said):
    with pytest.raises(BadInput, match=said):
        _with_template(template).render([{"role": "user", "content": "x"}])


def test_templates_may_break_loops_and_write_json():
    template = "{% for m in messages %}{% break %}{% endfor %}{{ {'a': '<ü>'} | tojson }}"
    assert _with_template(template).render([]) == '{"a": "<ü>"}'


def test_without_a_template_a_conversation_is_refused():
    words = Tokenizer({"tokenizer.json": tokenizer_texts()["tokenizer.json"]})
    assert not words.has_chat_template
    assert words.stop_tokens == ()
    with pytest.raises(BadInput, match="without a chat template"):
        words.chat([])


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({}, "token ids only"),
        ({"tokenizer.json": "{}"}, r"tokenizer\.json"),
        ({"tokenizer_config.json": "["}, "not JSON"),
        ({"tokenizer_config.json": "[]"}, "expected an object"),
    ],
)
def test_files_that_are_not_what_they_are_called(texts, said):
    whole = texts if not texts or "tokenizer.json" in texts else {**tokenizer_texts(), **texts}
    with pytest.raises(BadInput, match=said):
        Tokenizer(whole)


def test_from_a_folder(tmp_path):
    for name, text in tokenizer_texts().items():
        (tmp_path / name).write_text(text)
    assert Tokenizer.from_folder(tmp_path).encode("dog") == tokenizer().encode("dog")


@pytest.mark.parametrize(
    "template", ["{{ " + "(" * 5000 + ")" * 5000 + " }}", "{{ " + "-" * 5000 + "1 }}", "{{ x"]
)
def test_a_template_that_cannot_be_read_is_refused(template):
    with pytest.raises(BadInput, match="the model's chat template"):
        _with_template(template).render([])


def test_a_list_of_templates_may_hold_anything():
    config = {"chat_template": [3, {"name": "default", "template": "{{ 1 }}"}, {"name": ["x"]}]}
    texts = {**tokenizer_texts(), "tokenizer_config.json": json.dumps(config)}
    assert Tokenizer(texts).render([]) == "1"
    config = json.dumps({"chat_template": [3]})
    assert not Tokenizer({**tokenizer_texts(), "tokenizer_config.json": config}).has_chat_template
