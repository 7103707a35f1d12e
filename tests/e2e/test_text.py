"""A language model from its folder to text: quantised, built, asked on the command line and by the
`openai` client, and held against ONNX Runtime on the same file."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from fake_llm import tokenizer_texts
from tiny_llm import Reference, TinyLlm, build

import hetero_tvm
from hetero_tvm.block_quantization import Settings
from hetero_tvm.quantize import quantize_model
from hetero_tvm.tokenizer import Tokenizer

_MESSAGES = [{"role": "user", "content": "hot dog?"}]
_CONTEXT = 96


@pytest.fixture(scope="module")
def model(tmp_path_factory, opencl):
    """The quantised model's file, and its artefact."""
    folder = tmp_path_factory.mktemp("text")
    build(TinyLlm(vocabulary=320), folder / "float")
    for name, text in tokenizer_texts().items():
        (folder / "float" / name).write_text(text)
    quantize_model(folder / "float", folder / "w4", Settings())
    artefact = folder / "tiny.so"
    settings = {"target": "host", "devices": "gpu", "context": _CONTEXT, "prefill": [16]}
    hetero_tvm.build(folder / "w4", output=artefact, **settings)
    return folder / "w4" / "model.onnx", artefact


def _greedy(file, prompt, count):
    return Reference(file).greedy(prompt, count)


def test_generate_says_what_onnx_runtime_says(model, hetero):
    file, artefact = model
    words = Tokenizer(tokenizer_texts())
    prompt = words.encode("The lazy dog")
    done = hetero("generate", artefact, "The lazy dog", "--max-new-tokens", "20", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    wanted = _greedy(file, prompt, 20)
    stops = [n for n, token in enumerate(wanted) if token in words.stop_tokens]
    assert result["tokens"] == wanted[: stops[0] if stops else None]
    assert result["placement"]["1"]["operators"]["gpu"] > 0
    assert result["decode_tokens_per_s"] > 0


def test_build_quantises_as_the_verb_does(model, tmp_path):
    file, _ = model
    floats = file.parents[1] / "float"
    settings = {"target": "host", "devices": "gpu", "context": _CONTEXT, "prefill": [16]}
    output = tmp_path / "tiny.so"
    hetero_tvm.build(floats, output=output, quantize="w4a16", **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.so"]
    prompt = Tokenizer(tokenizer_texts()).encode("The lazy dog")
    tokens = hetero_tvm.load_llm(output).generate(prompt, max_new_tokens=10, stop_tokens=())
    assert list(tokens) == _greedy(file, prompt, 10)


def test_the_products_read_four_bits(model):
    assert b"w4a16" in model[1].read_bytes()


def test_the_server_answers_as_onnx_runtime_does(model):
    openai = pytest.importorskip("openai")
    file, artefact = model
    command = [sys.executable, "-m", "hetero_tvm.serve", str(artefact), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            line = process.stderr.readline()
            assert line.startswith("serving tiny on "), line + process.stderr.read()
            url = line.split(" on ")[1].split(";")[0]
            client = openai.OpenAI(base_url=url, api_key="-", timeout=60, max_retries=5)
            words = Tokenizer(tokenizer_texts())
            wanted = _greedy(file, words.chat(_MESSAGES), 8)
            stops = [n for n, token in enumerate(wanted) if token in words.stop_tokens]
            for _ in range(2):  # the second one finds its prompt in the cache
                answer = client.chat.completions.create(
                    model="tiny", messages=_MESSAGES, temperature=0, max_tokens=8
                )
                text = words.decode(wanted[: stops[0] if stops else None]).rstrip("\ufffd")
                assert answer.choices[0].message.content == text
            assert answer.usage.prompt_tokens_details.cached_tokens > 0
            process.send_signal(signal.SIGINT)
            started = time.monotonic()
            assert process.wait(timeout=20) == 0
            assert time.monotonic() - started < 15
        finally:
            process.kill()
