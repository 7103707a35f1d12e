"""The verb, on a fake model: what goes to stdout, to stderr, and out as the exit code."""

from __future__ import annotations

import argparse
import json

import pytest
from fake_llm import FakeSession, says, tokenizer

from hetero_tvm import generate, text_model
from hetero_tvm.errors import BadInput
from hetero_tvm.text_model import TextModel

_ANSWER = "A hot dog 世界 is no dog."


def _run(monkeypatch, model, *argv) -> int:
    monkeypatch.setattr(text_model, "open_text_model", lambda path, device: model)
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    parser.set_defaults(verb="generate", json=False, quiet=False)
    parser.add_argument("--json", action="store_true")
    return generate.run(parser.parse_args(["model.so", *argv]))


def test_the_text_goes_to_stdout_and_the_figures_to_stderr(monkeypatch, capsys):
    assert _run(monkeypatch, says(_ANSWER), "dog?") == 0
    shown = capsys.readouterr()
    assert shown.out == _ANSWER + "\n"
    for word in ("prefill", "first token after", "decode", "token/s", "memory", "ended by a stop"):
        assert word in shown.err


def test_json_has_the_fields_that_scripts_read(monkeypatch, capsys):
    _run(monkeypatch, says(_ANSWER), "dog?", "--json", "--max-new-tokens", "4")
    result = json.loads(capsys.readouterr().out)
    assert result["tokens"] == tokenizer().encode(_ANSWER)[:4]
    assert result["text"] == tokenizer().decode(result["tokens"])
    assert result["ttft_s"] > 0
    assert result["prefill_tokens_per_s"] > 0
    assert result["decode_tokens_per_s"] > 0
    assert (result["verb"], result["finish_reason"]) == ("generate", "length")


def test_a_chat_goes_through_the_template(monkeypatch, capsys):
    model = says("yes")
    _run(monkeypatch, model, "hot?", "--chat", "--system", "be brief", "--max-new-tokens", "1")
    prompt = tokenizer().render(
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hot?"}]
    )
    assert list(model.session.tokens) == tokenizer().encode(prompt)


def test_ids_in_and_out_where_there_is_no_tokenizer(monkeypatch, capsys):
    model = TextModel(name="x", session=FakeSession(lambda t: t[-1] + 1), tokenizer=None)
    _run(monkeypatch, model, "--ids", "1, 2", "--max-new-tokens", "3")
    shown = capsys.readouterr()
    assert shown.out == "3,4,5\n"
    assert "without tokenizer.json" in shown.err


def test_a_prompt_from_stdin(monkeypatch, capsys):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("dog?\n"))
    model = says("yes")
    _run(monkeypatch, model, "-", "--max-new-tokens", "1")
    assert list(model.session.tokens) == tokenizer().encode("dog?\n")


def test_ctrl_c_ends_the_line_and_says_how_far_it_came(monkeypatch, capsys):
    steps = iter(range(100))

    def interrupt() -> None:
        if next(steps) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(monkeypatch, says(_ANSWER, on_step=interrupt), "dog?")
    shown = capsys.readouterr()
    assert shown.out.endswith("\n")
    assert _ANSWER.startswith(shown.out[:-1])
    assert shown.out[:-1]
    assert "decode   2 tokens" in shown.err
    assert "ended by Ctrl-C" in shown.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "give a prompt"),
        (["x", "--ids", "1"], "one of them"),
        (["--ids", "1,x"], "whole numbers"),
        (["--ids", "1", "--chat"], "--chat is for a text"),
        (["x", "--system", "y"], "goes with --chat"),
        (["x", "--top-p", "3"], "top-p"),
        (["x", "--stop", ""], "empty"),
        (["x", "--max-new-tokens", "0"], "at least 1"),
    ],
)
def test_bad_flags_are_one_line(monkeypatch, argv, said):
    with pytest.raises(BadInput, match=said):
        _run(monkeypatch, says(_ANSWER), *argv)
