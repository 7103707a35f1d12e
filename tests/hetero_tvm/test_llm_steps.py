"""Which steps a folder is built, planned and tuned for."""

import pytest

from hetero_tvm.config import BuildConfig
from hetero_tvm.errors import BadInput, WrongKindOfModel
from hetero_tvm.frontend.llm_folder import read_llm_folder
from hetero_tvm.llm_steps import checked_capacity, step_configs
from tests.hetero_tvm.tiny_llm import TinyLlm, build


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(TinyLlm(layers=1), tmp_path_factory.mktemp("llm") / "model")


def config(folder, **more):
    return BuildConfig(model=folder, target="host", output=None, **more)


@pytest.mark.parametrize(
    ("prefill", "capacity", "steps"),
    [
        pytest.param(None, None, [1, 32, 95], id="the_context_is_shorter_than_a_usual_chunk"),
        pytest.param([8, 32], 64, [1, 8, 32], id="as_asked"),
        pytest.param([1], 64, [1], id="decoding_alone"),
    ],
)
def test_decoding_and_chunks_of_prompts(folder, prefill, capacity, steps):
    found = step_configs(config(folder), prefill, capacity)
    assert list(found) == steps
    for rows, one in found.items():
        assert (one.llm.rows, one.llm.capacity) == (rows, capacity or 96)
        assert one.model == folder / "model.onnx"
        assert one.measure is False


def test_context_is_the_models_where_it_is_shorter_than_usual(folder):
    described = read_llm_folder(folder)
    assert checked_capacity(described, None) == 96
    with pytest.raises(BadInput, match="--context 97: the model takes 2 to 96 tokens"):
        checked_capacity(described, 97)


def test_refuses_what_a_folder_does_not_take(folder):
    with pytest.raises(WrongKindOfModel, match=r"--input: .* folder, which takes none"):
        step_configs(config(folder, inputs={"x": (1,)}))
    with pytest.raises(BadInput, match="--dtype float16: language models are stored"):
        step_configs(config(folder, dtype="float16"))
