"""The build of a folder: what it refuses and what the manifest says. Numbers: test_llm_session."""

from __future__ import annotations

import json

import pytest

import hetero_tvm
from hetero_tvm import bundle, cli, llm_build
from hetero_tvm.errors import BadInput
from hetero_tvm.frontend.llm_folder import read_llm_folder
from tests.hetero_tvm.tiny_llm import TinyLlm, build


@pytest.fixture
def folder(tmp_path):
    return build(TinyLlm(layers=1), tmp_path / "model", tokenizer=True)


def test_manifest_describes_the_model(folder, tmp_path):
    output = tmp_path / "llm.so"
    result = hetero_tvm.build(
        folder, target="host", output=output, devices="gpu", context=24, prefill=[8]
    )
    assert sorted(result.variants) == [1, 8]
    manifest = bundle.read_manifest(output)
    described = manifest.llm
    assert [(spec.name, spec.shape) for spec in described.caches] == [
        ("past_key_values.0.key", (1, 2, 24, 16)),
        ("past_key_values.0.value", (1, 2, 24, 16)),
    ]
    assert (described.capacity, described.vocabulary, described.stop_tokens) == (24, 64, (2,))
    assert described.texts == {"tokenizer.json": "{}"}
    assert [variant.function for variant in manifest.variants] == ["main_1", "main_8"]


def test_context_is_the_models_where_it_is_shorter_than_usual(folder):
    described = read_llm_folder(folder)
    assert llm_build.checked_capacity(described, None) == 96
    with pytest.raises(BadInput, match="--context 97: the model takes 2 to 96 tokens"):
        llm_build.checked_capacity(described, 97)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--length", "4"], "--length: .* folder, which takes none", id="length"),
        pytest.param(["--input", "x=1"], "--input: .* folder, which takes none", id="input"),
        pytest.param(["--dtype", "float16"], "--dtype float16: language models", id="dtype"),
        pytest.param(["--prefill", "8,x"], "--prefill 8,x: write whole numbers", id="prefill"),
        pytest.param(["--context", "1"], "--context 1: the model takes 2 to 96", id="context"),
    ],
)
def test_refuses_flags_that_make_no_sense(folder, flags, message, capsys):
    code = cli.main(["build", str(folder), "--target", "host", "--devices", "gpu", *flags])
    assert code == 2
    import re

    assert re.search(message, capsys.readouterr().err)


def test_flags_of_a_language_model_need_a_folder(folder):
    with pytest.raises(BadInput, match="for a language model's folder"):
        hetero_tvm.build(folder / "model.onnx", target="host", context=5)


def test_says_that_it_works_on_token_ids_without_a_tokenizer(folder, capsys):
    (folder / "tokenizer.json").unlink()
    code = cli.main(
        ["build", str(folder), "--target", "host", "--devices", "gpu", "--plan-only", "--json"]
    )
    said = capsys.readouterr()
    assert code == 0
    assert "no tokenizer.json: the artefact works on token ids" in said.err
    assert json.loads(said.out)["output"] is None
