"""What a folder says about its model, and what is said where it says nothing."""

from __future__ import annotations

import json

import pytest

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend.llm_folder import is_llm_folder, read_llm_folder
from tests.hetero_tvm.tiny_llm import TinyLlm, build


@pytest.fixture
def folder(tmp_path):
    return build(TinyLlm(), tmp_path / "model", tokenizer=True)


def test_reads_caches_context_and_stop_tokens(folder):
    found = read_llm_folder(folder)
    assert is_llm_folder(folder)
    assert not is_llm_folder(found.model)
    assert [(c.layer, c.kind, c.heads, c.depth) for c in found.caches] == [
        (0, "key", 2, 16),
        (0, "value", 2, 16),
        (1, "key", 2, 16),
        (1, "value", 2, 16),
    ]
    assert (found.context, found.vocabulary, found.stop_tokens) == (96, 64, (2,))
    assert found.has_tokenizer


def test_hugging_face_files_say_the_same(folder):
    (folder / "genai_config.json").unlink()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 77}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    found = read_llm_folder(folder)
    assert (found.context, found.stop_tokens) == (77, (5, 6))


def test_without_tokenizer_it_is_token_ids(folder):
    (folder / "tokenizer.json").unlink()
    assert not read_llm_folder(folder).has_tokenizer


def _named_outside(folder):
    config = {"model": {"decoder": {"filename": "../model.onnx"}}}
    (folder / "genai_config.json").write_text(json.dumps(config))


def _named_missing(folder):
    config = {"model": {"decoder": {"filename": "other.onnx"}}}
    (folder / "genai_config.json").write_text(json.dumps(config))


def _two_models(folder):
    (folder / "model.onnx").rename(folder / "a.onnx")
    (folder / "b.onnx").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda f: (f / "model.onnx").unlink(), "no ONNX file in this", id="no_model"),
        pytest.param(
            lambda f: (f / "genai_config.json").write_text("{"), "not JSON", id="broken_json"
        ),
        pytest.param(
            lambda f: (f / "config.json").write_text("[]"), "expected an object", id="no_object"
        ),
        pytest.param(_named_outside, "leaves the folder", id="outside"),
        pytest.param(_named_missing, "names other.onnx, which is not there", id="missing"),
        pytest.param(_two_models, "several ONNX files", id="two_models"),
    ],
)
def test_says_what_is_wrong_in_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(BadInput, match=message) as raised:
        read_llm_folder(folder)
    assert "\n" not in str(raised.value)


def test_model_without_cache_is_refused(tmp_path):
    from onnx import TensorProto, helper, save

    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["logits"])],
        "g",
        [info("x", TensorProto.FLOAT, [1])],
        [info("logits", TensorProto.FLOAT, [1])],
    )
    save(helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(BadInput, match="not a language model with a cache"):
        read_llm_folder(tmp_path)


@pytest.mark.parametrize("window", [-1, 1 << 40])
def test_window_that_a_cache_cannot_have_is_refused(window, tmp_path):
    spec = TinyLlm(window=window, layers=1, attributes=(("sliding_window_cache", 1),))
    with pytest.raises(
        BadInput, match=rf"sliding_window_cache needs a local_window_size .*{window}"
    ):
        read_llm_folder(build(spec, tmp_path / "model"))
