"""Engines that run a language model, one per process, behind one small protocol.

    PYTHON benchmarks/llm_engines.py ENGINE MODEL THREADS

reads lines of JSON, `{"prefill": N}` or `{"decode": N, "steps": S}`, and answers each with the
seconds that it took: of a prompt of N tokens up to the logits of its last one, or of a step after
a prompt of N tokens. Each engine runs in the Python that has its packages (`llm_peers.py`).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

VOCABULARY = range(10, 40000)


class Engine(Protocol):
    """One loaded model."""

    def prefill(self, tokens: np.ndarray) -> float:
        """Seconds from an empty cache to the first token."""

    def decode(self, tokens: np.ndarray, steps: int) -> float:
        """Seconds for one more token after `tokens`, the median of `steps`."""


class Ours:
    """An artefact of this project; its threads are the stand-ins' (`DPCPP_CPU_NUM_CUS`)."""

    def __init__(self, model: str, threads: int) -> None:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
        import hetero_tvm

        self.session = hetero_tvm.load_llm(model)

    def prefill(self, tokens: np.ndarray) -> float:
        """See `Engine`."""
        self.session.reset()
        start = time.perf_counter()
        int(np.argmax(self.session.prefill(tokens.tolist())))
        return time.perf_counter() - start

    def decode(self, tokens: np.ndarray, steps: int) -> float:
        """See `Engine`."""
        self.session.reset()
        token, taken = int(np.argmax(self.session.prefill(tokens.tolist()))), []
        for _ in range(steps):
            start = time.perf_counter()
            token = int(np.argmax(self.session.decode(token)))
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)


class OnnxRuntime:
    """ONNX Runtime on a model with caches as inputs, in the form that exporters give."""

    def __init__(self, model: str, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(
            f"{model}/model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.value = ort.OrtValue.ortvalue_from_numpy
        self.inputs = {each.name: each for each in self.session.get_inputs()}
        self.outputs = [each.name for each in self.session.get_outputs()]
        self.caches = [name for name in self.inputs if "past" in name]

    def _step(self, tokens: np.ndarray, past: dict[str, Any], filled: int) -> tuple[int, Any]:
        fed = {
            "input_ids": tokens.astype(np.int64)[None],
            "attention_mask": np.ones((1, filled + tokens.size), np.int64),
            "position_ids": np.arange(filled, filled + tokens.size, dtype=np.int64)[None],
        }
        values = {name: self.value(array) for name, array in fed.items() if name in self.inputs}
        found = self.session.run_with_ort_values(self.outputs, {**values, **past})
        named = dict(zip(self.outputs, found, strict=True))
        present = {name: named[name.replace("past_key_values", "present")] for name in self.caches}
        return int(named["logits"].numpy()[0, -1].argmax()), present

    def _empty(self) -> dict[str, Any]:
        shapes = {name: self.inputs[name].shape for name in self.caches}
        return {
            name: self.value(np.zeros((1, heads, 0, depth), np.float32))
            for name, (_, heads, _, depth) in shapes.items()
        }

    def prefill(self, tokens: np.ndarray) -> float:
        """See `Engine`."""
        past = self._empty()
        start = time.perf_counter()
        self._step(tokens, past, 0)
        return time.perf_counter() - start

    def decode(self, tokens: np.ndarray, steps: int) -> float:
        """See `Engine`."""
        token, past = self._step(tokens, self._empty(), 0)
        taken = []
        for step in range(steps):
            start = time.perf_counter()
            token, past = self._step(np.array([token]), past, tokens.size + step)
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)


class GenAi:
    """onnxruntime-genai on a folder of its own builder's."""

    def __init__(self, model: str, threads: int) -> None:
        import onnxruntime_genai

        self.api = onnxruntime_genai
        config = onnxruntime_genai.Config(model)
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self.model = onnxruntime_genai.Model(config)

    def _generator(self, length: int) -> Any:
        parameters = self.api.GeneratorParams(self.model)
        parameters.set_search_options(
            max_length=length, min_length=length, do_sample=False, batch_size=1
        )
        return self.api.Generator(self.model, parameters)

    def prefill(self, tokens: np.ndarray) -> float:
        """See `Engine`."""
        generator = self._generator(tokens.size + 8)
        start = time.perf_counter()
        generator.append_tokens(tokens.astype(np.int32))
        generator.generate_next_token()
        return time.perf_counter() - start

    def decode(self, tokens: np.ndarray, steps: int) -> float:
        """See `Engine`."""
        generator = self._generator(tokens.size + steps + 8)
        generator.append_tokens(tokens.astype(np.int32))
        generator.generate_next_token()
        taken = []
        for _ in range(steps):
            start = time.perf_counter()
            generator.generate_next_token()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)


class OpenVino:
    """OpenVINO GenAI on a GGUF file; the times are its own, which leave the tokenizer out."""

    def __init__(self, model: str, threads: int) -> None:
        import openvino
        import openvino_genai

        self.tensor, self.api = openvino.Tensor, openvino_genai
        self.pipeline = openvino_genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)

    def _generate(self, tokens: np.ndarray, count: int) -> Any:
        config = self.api.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = count
        config.do_sample, config.ignore_eos, config.apply_chat_template = False, True, False
        return self.pipeline.generate(
            self.tensor(tokens.astype(np.int64)[None]), config
        ).perf_metrics

    def prefill(self, tokens: np.ndarray) -> float:
        """See `Engine`."""
        return float(self._generate(tokens, 2).get_ttft().mean / 1e3)

    def decode(self, tokens: np.ndarray, steps: int) -> float:
        """See `Engine`."""
        return float(self._generate(tokens, steps + 1).get_tpot().mean / 1e3)


class LlamaCpp:
    """llama.cpp through llama-cpp-python, on a GGUF file."""

    def __init__(self, model: str, threads: int) -> None:
        from llama_cpp import Llama

        self.model = Llama(
            model,
            n_ctx=2048,
            n_batch=512,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )

    def prefill(self, tokens: np.ndarray) -> float:
        """See `Engine`."""
        self.model.reset()
        start = time.perf_counter()
        self.model.eval(tokens.tolist())
        return time.perf_counter() - start

    def decode(self, tokens: np.ndarray, steps: int) -> float:
        """See `Engine`."""
        self.model.reset()
        self.model.eval(tokens.tolist())
        taken = []
        for _ in range(steps):
            start = time.perf_counter()
            self.model.eval([self.model.sample(temp=0.0)])
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)


class Mnn:
    """MNN on a folder that `mnn_export.py` made."""

    def __init__(self, model: str, threads: int) -> None:
        import MNN.llm

        self.model = MNN.llm.create(f"{model}/config.json")
        self.model.set_config({"thread_num": threads})
        self.model.load()

    def _step(self, tokens: list[int]) -> int:
        return int(np.argmax(np.array(self.model.forward(tokens).read())))  # of the last one

    def prefill(self, tokens: np.ndarray) -> float:
        """See `Engine`."""
        self.model.reset()
        start = time.perf_counter()
        self._step(tokens.tolist())
        return time.perf_counter() - start

    def decode(self, tokens: np.ndarray, steps: int) -> float:
        """See `Engine`."""
        self.model.reset()
        token, taken = self._step(tokens.tolist()), []
        for _ in range(steps):
            start = time.perf_counter()
            token = self._step([token])
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)


ENGINES = {
    "ours": Ours,
    "onnxruntime": OnnxRuntime,
    "onnxruntime-genai": GenAi,
    "openvino": OpenVino,
    "llama.cpp": LlamaCpp,
    "mnn": Mnn,
}


def main() -> int:
    """Load, say so, answer until the input ends."""
    name, model, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    # Engines talk on standard output; answers have it for themselves.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engine: Engine = ENGINES[name](model, threads)
    rng = np.random.default_rng(0)
    print(json.dumps("ready"), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        size = asked.get("prefill") or asked["decode"]
        tokens = rng.integers(VOCABULARY.start, VOCABULARY.stop, size)
        seconds = (
            engine.prefill(tokens) if "prefill" in asked else engine.decode(tokens, asked["steps"])
        )
        print(json.dumps(seconds), file=answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
