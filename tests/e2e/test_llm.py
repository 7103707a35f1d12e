"""SmolLM2-135M-Instruct, whole, against ONNX Runtime on the same file. `make nightly` runs it.

`examples/llm_forms.py` makes the files from packages; a form that is not in `.cache/llm` yet is
made first, which takes minutes and two gigabytes of packages.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import hetero_tvm
from examples import llm_forms
from tests.hetero_tvm.tiny_llm import Reference

pytestmark = pytest.mark.nightly
NEW_TOKENS = 64
CONTEXT = 1024
CHAT = "<|im_start|>{role}\n{text}<|im_end|>\n"
ARTICLE = (
    "The river rises in the hills to the north, where rain falls on two days out of three, and "
    "runs through four valleys before it meets the sea. "
)


def chat(text):
    asked = CHAT.format(role="user", text=text)
    system = CHAT.format(role="system", text="You are a helpful AI assistant.")
    return f"{system}{asked}<|im_start|>assistant\n"


PROMPTS = {
    "short": "Once upon a time",
    "one_word": "Gravity",
    "list": "The three primary colours are",
    "sum": "2 + 2 = 4, 3 + 3 = 6, 4 + 4 =",
    "chat_capital": chat("What is the capital of France?"),
    "chat_story": chat("Tell me a very short story about a lighthouse keeper."),
    "chat_list": chat("List five uses of copper."),
    "code": "def fibonacci(n):\n    ",
    "c_code": "#include <stdio.h>\n\nint main(void) {\n",
    "french": "Il était une fois, dans un petit village au bord de la mer,",
    "german": "Die wichtigsten Städte in Deutschland sind",
    "long": ARTICLE * 18 + "In short, the river",
}


def tokens_of(folder, text):
    tokenizers = pytest.importorskip("tokenizers")
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


@pytest.fixture(scope="module", params=["gpu", "gpu+npu"])
def devices(request):
    return request.param


@pytest.fixture(scope="module", params=["genai-fp32", "hf-fp32"])
def built(request, devices, tmp_path_factory, opencl):
    """The form's folder, and a session on it; with both devices some operators are cut."""
    folder = llm_forms.make(request.param)
    output = tmp_path_factory.mktemp(request.param) / "llm.so"
    result = hetero_tvm.build(
        folder, target="host", output=output, devices=devices, context=CONTEXT
    )
    for plan in result.variants.values():
        assert any(op.split for op in plan.ops) == (devices == "gpu+npu")
    yield folder, hetero_tvm.load_llm(output)
    output.unlink()


@pytest.mark.parametrize("name", PROMPTS)
def test_greedy_tokens_are_those_of_onnx_runtime(built, name):
    folder, session = built
    prompt = tokens_of(folder, PROMPTS[name])
    if name == "long":
        assert len(prompt) > 512
    want = Reference(folder / "model.onnx").greedy(prompt, NEW_TOKENS)
    session.reset()
    assert list(session.generate(prompt, max_new_tokens=NEW_TOKENS, stop_tokens=())) == want


def cosine(one, other):
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.fixture(scope="module", params=["genai-fp16", "hf-fp16"])
def half(request, tmp_path_factory, opencl):
    """A float16 form's folder, and a session on it."""
    folder = llm_forms.make(request.param)
    output = tmp_path_factory.mktemp(request.param) / "llm.so"
    hetero_tvm.build(folder, target="host", output=output, devices="gpu", context=CONTEXT)
    yield folder, hetero_tvm.load_llm(output)
    output.unlink()


@pytest.mark.parametrize("name", PROMPTS)
def test_float16_logits_under_teacher_forcing(half, name):
    """Behind ONNX Runtime's own tokens. Where ours would be another one, the two best of ONNX
    Runtime's are closer than half the bits of a float16 tell apart: 2^-6 of the largest logit."""
    folder, session = half
    prompt, reference = tokens_of(folder, PROMPTS[name]), Reference(folder / "model.onnx")
    session.reset()
    got, want = session.prefill(prompt).copy(), reference.step(prompt)
    for _ in range(NEW_TOKENS):
        assert cosine(got, want) >= 0.999
        if got.argmax() != want.argmax():
            assert want.max() - want[got.argmax()] <= 2**-6 * np.abs(want).max()
        token = int(want.argmax())
        got, want = session.decode(token).copy(), reference.step([token])


def in_full_precision(folder, into):
    """The int4 model with a note that ONNX Runtime must not round activations to int8."""
    proto = onnx.load(folder / "model.onnx")
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    into.mkdir()
    onnx.save(proto, into / "model.onnx", save_as_external_data=True, location="weights.bin")
    (into / "genai_config.json").write_bytes((folder / "genai_config.json").read_bytes())
    return into / "model.onnx"


def test_int4_logits_under_teacher_forcing(devices, tmp_path):
    """The builder's own int4. With activations in int8, as the file allows, ONNX Runtime itself is
    at 0.9986 to its float32; we are at 1.0000 to that."""
    folder = llm_forms.make("genai-int4")
    output = tmp_path / "llm.so"
    hetero_tvm.build(folder, target="host", output=output, devices=devices, context=CONTEXT)
    session = hetero_tvm.load_llm(output)
    reference = Reference(in_full_precision(folder, tmp_path / "reference"))
    prompt = tokens_of(folder, PROMPTS["chat_capital"])
    forced = tokens_of(folder, "The capital of France is Paris, which lies on the Seine.")
    pairs = [(session.prefill(prompt).copy(), reference.step(prompt))]
    for token in forced:
        pairs.append((session.decode(token).copy(), reference.step([token])))
    for got, want in pairs:
        assert cosine(got, want) >= 0.9999
