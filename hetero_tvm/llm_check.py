"""Does a built language model compute what ONNX Runtime computes from its own file?

A prompt of random tokens in chunks, then tokens one by one, on this machine's devices, against the
original model with its cache growing as it does there. So this sees the import, every pass, the
kernels, the cache and what fills chunks up at once, and says by how much they are off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx

from hetero_tvm import bundle, llm_session
from hetero_tvm.errors import BadInput, ImportDiffers
from hetero_tvm.frontend.evaluate import quiet_options
from hetero_tvm.frontend.llm_folder import LlmFolder
from hetero_tvm.frontend.self_check import relative_error

# Relative, in the 2-norm of the logits. float32 differs in the order of sums, over some dozens of
# layers; ONNX Runtime's int4 kernels of accuracy level 4 round activations to 8 bits themselves.
TOLERANCE = 1e-3
HALF_TOLERANCE = 4e-2  # of float16 files: a cosine of 0.9992; both engines round between operators
ROUGH_TOLERANCE = 1e-1
_INT8 = 4
_SEED = 7
_LONGEST = 48
_DECODED = 3


class Reference:
    """ONNX Runtime on the model's own file, one sequence, the cache handed from run to run."""

    def __init__(self, folder: LlmFolder) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(
            str(folder.model), quiet_options(threads=0), providers=["CPUExecutionProvider"]
        )
        self._outputs = [value.name for value in self._session.get_outputs()]
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._past = {
            cache.name: np.zeros((1, cache.heads, 0, cache.depth), cache.dtype)
            for cache in folder.caches
        }
        self._length = 0

    def step(self, tokens: list[int]) -> np.ndarray:
        """Append `tokens`; the logits [vocabulary] behind the last one."""
        total = self._length + len(tokens)
        feed = {"input_ids": np.array([tokens], np.int64), **self._past}
        more = {
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(self._length, total, dtype=np.int64)[None],
        }
        feed |= {name: array for name, array in more.items() if name in self._inputs}
        found = dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))
        self._past = {name: found[_present(name, found)] for name in self._past}
        self._length = total
        logits: np.ndarray = found["logits"][0, -1]
        return logits


def _present(past: str, outputs: dict[str, np.ndarray]) -> str:
    """The output that continues a cache input."""
    tail = past.removeprefix("past_key_values").removeprefix("past")
    for name in (f"present{tail}", f"present_key_values{tail}"):
        if name in outputs:
            return name
    raise BadInput(f"no output continues the cache {past}; expected present{tail}")


def check(artefact: Path, folder: LlmFolder, note: Callable[[str], None]) -> float:
    """The largest relative error of any logits; `note` is told.

    Raises:
        BadInput: they differ by more than rounding.
    """
    manifest = bundle.read_manifest(artefact, verify=False)
    assert manifest.llm is not None
    chunk = max(variant.length for variant in manifest.variants)
    size = min(manifest.llm.capacity - _DECODED, chunk + 5, _LONGEST)
    rng = np.random.default_rng(_SEED)
    drawn = rng.integers(0, manifest.llm.vocabulary, size + _DECODED)
    tokens = [int(token) for token in drawn]
    # One after the other: each holds all weights.
    wanted = list(_steps(Reference(folder).step, tokens, size))
    session = llm_session.load_llm(artefact)
    found = _steps(lambda part: session.prefill(part).copy(), tokens, size)
    errors = [relative_error(one, other) for one, other in zip(found, wanted, strict=True)]
    limit = _tolerance(folder)
    if not max(errors) <= limit:
        raise ImportDiffers(
            f"{folder.model}: the built model differs from ONNX Runtime by {max(errors):.1e} "
            f"(relative; at most {limit:.0e}) in {'decoding' if errors[0] <= limit else 'a prompt'}"
            "; please report this model, or build it with --no-check"
        )
    note(f"logits differ from ONNX Runtime's by {max(errors):.1e} (relative)")
    return max(errors)


def _tolerance(folder: LlmFolder) -> float:
    if rounds_activations(folder.model):
        return ROUGH_TOLERANCE
    is_half = any(cache.dtype == "float16" for cache in folder.caches)
    return HALF_TOLERANCE if is_half else TOLERANCE


def _steps(
    step: Callable[[list[int]], np.ndarray], tokens: list[int], size: int
) -> Iterator[np.ndarray]:
    """What `step` gives for the first `size` tokens together, then for one after the other."""
    yield step(tokens[:size])
    for token in tokens[size:]:
        yield step([token])


def rounds_activations(model: Path) -> bool:
    """Does the file allow ONNX Runtime to round activations to 8 bits?"""
    proto = onnx.load(model, load_external_data=False)
    return any(
        attribute.name == "accuracy_level" and attribute.i >= _INT8
        for node in proto.graph.node
        if node.op_type == "MatMulNBits"
        for attribute in node.attribute
    )
