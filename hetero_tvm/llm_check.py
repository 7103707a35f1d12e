"""Does a built language model compute what ONNX Runtime computes from its own file?

A prompt of random tokens in chunks, then tokens one by one, on this machine's devices, against the
original model with its cache growing as it does there. So this sees the import, every pass, the
kernels, the cache and what fills chunks up at once, and says by how much they are off. What ONNX
Runtime gave is recorded in the artefact, for a device to be held against.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hetero_tvm import llm_session, memory, reference, runtime
from hetero_tvm.errors import ArtefactUnreadable, BadInput, ImportDiffers, ReferenceRefuses
from hetero_tvm.frontend.evaluate import quiet_options
from hetero_tvm.frontend.llm_folder import LlmFolder
from hetero_tvm.frontend.self_check import relative_error
from hetero_tvm.output_error import OutputError, Tolerance
from hetero_tvm.token_sequence import TokenSequence

# Relative, in the 2-norm of the logits. float32 differs in the order of sums, over some dozens of
# layers; ONNX Runtime's int4 kernels of accuracy level 4 round activations to 8 bits themselves.
TOLERANCE = 1e-3
# Of float16 files: a cosine of 0.9998. Both engines round between operators; SmolLM2 is at 8e-3.
HALF_TOLERANCE = 2e-2
ROUGH_TOLERANCE = 1e-1
_INT8 = 4
_SEED = 7
_LONGEST = 48
_DECODED = 3
_STRETCHES = 16  # of a step's calls, after each of which its weights are let go of


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
            cache.name: np.zeros((1, cache.heads, cache.window_rows, cache.depth), cache.dtype)
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
    """What ONNX Runtime gives: the logits behind a prompt, and behind each token after it."""

    prompt: list[int]
    then: list[int]
    logits: list[np.ndarray]  # [vocabulary] each
    limit: float  # how far off is right, relative

    def recorded(self) -> dict[str, Any]:
        """For the manifest: what `hold` takes."""
        outputs = dict(zip(_names(self.prompt, self.then), self.logits, strict=True))
        return {
            "prompt": self.prompt,
            "then": self.then,
            "limit": self.limit,
            "outputs": reference.described(outputs),
        }


def expected(folder: LlmFolder, *, vocabulary: int, capacity: int, chunk: int) -> Expected:
    """Run ONNX Runtime on the file of `folder`.

    Args:
        folder: the model.
        vocabulary: tokens are drawn below it.
        capacity: the longest sequence.
        chunk: the largest step; the prompt is a little longer.

    Raises:
        BadInput: ONNX Runtime cannot run it.
    """
    size = min(capacity - _DECODED, chunk + 5, _LONGEST)
    drawn = np.random.default_rng(_SEED).integers(0, vocabulary, size + _DECODED)
    tokens = [int(token) for token in drawn]
    try:
        model = Reference(folder)
        steps = [tokens[:size], *([token] for token in tokens[size:])]
        logits = [model.step(step).astype(np.float32) for step in steps]
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common base
        raise ReferenceRefuses(
            f"{folder.model}: ONNX Runtime cannot run it: {error}; --no-check builds it unproven"
        ) from None
    return Expected(
        prompt=tokens[:size], then=tokens[size:], logits=logits, limit=_tolerance(folder)
    )


def check(artefact: Path, wanted: Expected, model: Path, note: Callable[[str], None]) -> float:
    """The largest relative error of any logits; `note` is told. `model`: for messages.

    Raises:
        BadInput: they differ by more than rounding.
    """
    with runtime.unpacked_npu_weights():
        session = llm_session.load_llm(artefact)
    with _forgetting(artefact, session):
        found = _logits(session, wanted.prompt, wanted.then)
    errors = [relative_error(*pair) for pair in zip(found, wanted.logits, strict=True)]
    if not max(errors) <= wanted.limit:
        part = "decoding" if errors[0] <= wanted.limit else "a prompt"
        raise ImportDiffers(
            f"{model}: the built model differs from ONNX Runtime by {max(errors):.1e} "
            f"(relative; at most {wanted.limit:.0e}) in {part}; please report this model, or build "
            "it with --no-check"
        )
    note(f"logits differ from ONNX Runtime's by {max(errors):.1e} (relative)")
    return max(errors)


class _Forgetting:
    """The instrument of a virtual machine that lets go of weights as calls have read them.

    Weights are mapped. A step reads all of them, each device its own, and together they are up to
    two models; of these a few stretches' stay in memory. Within a stretch devices run beside each
    other as ever; at its end all of them are waited for, or pages would come back at once.
    """

    def __init__(self, session: llm_session.LlmSession, spans: Sequence[tuple[int, int]]) -> None:
        """`spans`: where the weights of `session` are mapped."""
        self._spans = spans
        calls = session.manifest.calls
        self._symbols = {call.symbol for each in calls.values() for call in each}
        self._stretch = max(1, min(map(len, calls.values()), default=1) // _STRETCHES)
        self._called = 0

    def __call__(self, _function: Any, symbol: str, before: bool, *_: Any) -> int:
        """What TVM calls around each call."""
        if before or symbol not in self._symbols:
            return 0
        self._called += 1
        if self._called % self._stretch == 0:
            runtime.sync()
            memory.forget_spans(self._spans)
        return 0


@contextlib.contextmanager
def _forgetting(artefact: Path, session: llm_session.LlmSession) -> Iterator[None]:
    """Of the weights of `session` only what a stretch of calls reads is in memory in here."""
    import tvm_ffi

    weights = session.manifest.weights
    spans = memory.mapped_spans(artefact, weights.offset) if weights is not None else []
    memory.forget_spans(spans)  # what loading has read
    session.instrument(tvm_ffi.convert(_Forgetting(session, spans)))
    try:
        yield
    finally:
        session.instrument(None)
        memory.forget_spans(spans)


def _tolerance(folder: LlmFolder) -> float:
    if rounds_activations(folder.model):
        return ROUGH_TOLERANCE
    is_half = any(cache.dtype == "float16" for cache in folder.caches)
    return HALF_TOLERANCE if is_half else TOLERANCE


def hold(
    session: TokenSequence, recorded: Mapping[str, Any], tolerance: Tolerance
) -> list[OutputError]:
    """`session` against what `Expected.recorded` gave, logits by logits; it is reset before.

    `tolerance`: of the arithmetic where it runs; what the file itself rounds is allowed beside it.

    Raises:
        BadInput: the record is damaged.
    """
    try:
        prompt, then = [[int(token) for token in recorded[key]] for key in ("prompt", "then")]
        limit = float(recorded["limit"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ArtefactUnreadable("the recorded tokens are damaged; rebuild it") from None
    session.reset()
    outputs = dict(zip(_names(prompt, then), _logits(session, prompt, then), strict=True))
    allowed = max(tolerance.relative_error, limit)
    wide = dataclasses.replace(
        tolerance, relative_error=allowed, cosine=min(tolerance.cosine, 1 - allowed)
    )
    return reference.check(outputs, recorded, wide)


def _logits(session: TokenSequence, prompt: Sequence[int], then: Sequence[int]) -> list[np.ndarray]:
    found = [session.prefill(prompt).astype(np.float32)]
    return found + [session.decode(token).astype(np.float32) for token in then]


def _names(prompt: Sequence[int], then: Sequence[int]) -> list[str]:
    return [f"logits after {len(prompt) + more} tokens" for more in range(len(then) + 1)]


def rounds_activations(model: Path) -> bool:
    """Does the file allow ONNX Runtime to round activations to 8 bits?"""
    proto = onnx.load(model, load_external_data=False)
    return any(
        attribute.name == "accuracy_level" and attribute.i >= _INT8
        for node in proto.graph.node
        if node.op_type == "MatMulNBits"
        for attribute in node.attribute
    )
