"""The verb: a folder in, a folder out."""

from __future__ import annotations

import argparse
import json

import pytest
import small_llm
from fake_llm import tokenizer_texts

from hetero_tvm import quantize
from hetero_tvm.errors import BadInput
from hetero_tvm.progress import Progress


def _model_dir(tmp_path, *, nested=False):
    folder = tmp_path / "model"
    small_llm.write(folder / "onnx" if nested else folder, small_llm.weights(0))
    for name, text in tokenizer_texts().items():
        (folder / name).write_text(text)
    (folder / "README.md").write_text("not copied")
    return folder


def _run(*argv) -> int:
    parser = argparse.ArgumentParser()
    quantize.add_arguments(parser)
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(quiet=False, verbose=0)
    return quantize.run(parser.parse_args([str(word) for word in argv]))


def test_the_report_in_words(tmp_path, capsys):
    folder = _model_dir(tmp_path)
    text = tmp_path / "sample.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 20)
    assert _run(folder, "-o", tmp_path / "w4", "--text", text, "--text-tokens", 100) == 0
    shown = capsys.readouterr().out
    for words in ("/layers.0/up", "32x48", "4/32 zp", "/lm_head", "kept as it is", "x 1.0"):
        assert words in shown
    assert "99 tokens in windows of 512" in shown
    names = {file.name for file in (tmp_path / "w4").iterdir()}
    assert names == {"model.onnx", "model.onnx.data", *tokenizer_texts()}


def test_json(tmp_path, capsys):
    folder = _model_dir(tmp_path, nested=True)
    overrides = tmp_path / "layers.toml"
    overrides.write_text('[[layer]]\nmatch = "/lm_head"\nbits = 8\n')
    _run(folder, "-o", tmp_path / "w4", "--symmetric", "--overrides", overrides, "--json")
    result = json.loads(capsys.readouterr().out)
    layers = {layer["name"]: layer for layer in result["layers"]}
    assert layers["/lm_head"]["settings"] == {"bits": 8, "group": 32, "symmetric": True}
    assert layers["/lm_head"]["relative_error"] < 0.01 < layers["/layers.0/up"]["relative_error"]
    assert result["perplexity_before"] is None
    assert (tmp_path / "w4" / "tokenizer.json").is_file()


def test_a_file_alone_and_a_second_time(tmp_path):
    path = small_llm.write(tmp_path / "m", small_llm.weights(0))
    _run(path, "-o", tmp_path / "w4")
    with pytest.raises(BadInput, match="exists already"):
        _run(path, "-o", tmp_path / "w4")
    everything = tmp_path / "all.toml"
    everything.write_text('[[layer]]\nmatch = "*"\nbits = 4\n')
    _run(path, "-o", tmp_path / "all", "--overrides", everything)
    with pytest.raises(BadInput, match="its 4 products have few bits already"):
        _run(tmp_path / "all", "-o", tmp_path / "again")


def test_nothing_is_left_behind_when_it_fails(tmp_path, monkeypatch):
    folder = _model_dir(tmp_path)
    before = sorted(tmp_path.iterdir())

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("hetero_tvm.quantize_onnx.quantize", fail)
    with pytest.raises(KeyboardInterrupt):
        _run(folder, "-o", tmp_path / "w4")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "text", "dim"),
    [
        ("genai_config.json", '{"model": {"decoder": {"head_size": 64}}}', 64),
        ("config.json", '{"head_dim": 96, "hidden_size": 10, "num_attention_heads": 5}', 96),
        ("config.json", '{"hidden_size": 576, "num_attention_heads": 9}', 64),
        ("config.json", "[]", None),
        ("config.json", "{", None),
    ],
)
def test_the_size_of_a_head_as_configurations_say_it(tmp_path, name, text, dim):
    (tmp_path / name).write_text(text)
    assert quantize.read_head_dim(tmp_path) == dim


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["none", "-o", "x"], "no such file or folder"),
        (["model", "-o", "x", "--group", "33"], "group 33"),
        (["model", "-o", "none/x"], "does not exist"),
        (["model", "-o", "x", "--overrides", "none.toml"], "No such file"),
        (["model", "-o", "x", "--text", "none.txt"], "No such file"),
        (["model", "-o", "x", "--text", "none.txt", "--text-tokens", "1"], "at least 2"),
        (["model/onnx", "-o", "x", "--text", "none.txt"], "needs .*tokenizer.json"),
        (["empty", "-o", "x"], "no ONNX files"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, argv, said):
    _model_dir(tmp_path, nested=True)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=said):
        _run(*argv)


def test_a_copy_for_as_long_as_it_is_needed(tmp_path):
    folder = _model_dir(tmp_path)
    near = tmp_path / "near"
    near.mkdir()
    how = quantize.read_settings(32, symmetric=False)
    with quantize.quantized_copy(folder, near, "w4a16", how, None, Progress(quiet=True)) as copy:
        assert (copy / "model.onnx").is_file()
        assert copy.name == folder.name
    assert not list(near.iterdir())
    with (
        pytest.raises(BadInput, match="quantize w3: there is w4a16"),
        quantize.quantized_copy(folder, near, "w3", how, None, Progress(quiet=True)),
    ):
        pass
