"""How well a language model's ONNX file predicts a text, by ONNX Runtime.

The text is cut into windows that are predicted each on its own; the first token of a window has
nothing before it and does not count. Comparing two files this way needs the same tokens and window.
Files that give the logits of the last token only are fed token by token, with their cache.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hetero_tvm.errors import BadInput, NotALanguageModel, ReferenceRefuses

_CACHE = re.compile(r".*\d+\.(decoder\.)?(key|value)")
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perplexity:
    """The result."""

    value: float  # e to the mean negative log-likelihood
    tokens: int  # that counted
    window: int


def perplexity(
    model: Path,
    tokens: Sequence[int],
    *,
    window: int = 512,
    head_dim: int | None = None,
    started: Callable[[int, int], None] = lambda number, count: None,
) -> Perplexity:
    """Of `tokens` by the language model in the ONNX file `model`.

    Args:
        model: with inputs as Hugging Face's or onnxruntime-genai's exporters name them.
        tokens: at least two.
        window: tokens that are predicted together.
        head_dim: values of a cached head, for files that leave it open.
        started: called before each window with its number and their count.

    Raises:
        BadInput: too few tokens, a token that the model does not have, or another kind of model.
    """
    if len(tokens) < 2:
        raise BadInput(f"a text of {len(tokens)} tokens: at least 2 for a perplexity")
    session = _session(model)
    windows = [tokens[start : start + window] for start in range(0, len(tokens), window)]
    windows = [part for part in windows if len(part) > 1]
    total, count = 0.0, 0
    for number, part in enumerate(windows):
        started(number, len(windows))
        logits = _logits(model, session, part, head_dim)
        total += _surprise(logits[:-1], np.asarray(part[1:]))
        count += len(part) - 1
    mean = total / count
    return Perplexity(value=math.exp(mean) if mean < 700 else math.inf, tokens=count, window=window)


def _session(model: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common base
        raise ReferenceRefuses(f"{model}: ONNX Runtime cannot load it: {error}") from None


def _logits(model: Path, session: Any, tokens: Sequence[int], head_dim: int | None) -> np.ndarray:
    """[tokens, vocabulary], beginning with an empty cache."""
    caches = _empty_caches(model, session, head_dim)
    logits, _ = _run(model, session, tokens, 0, caches)
    if logits.shape == (1, len(tokens), logits.shape[-1]):
        return logits[0]
    if logits.shape[:2] != (1, 1):
        raise NotALanguageModel(f"{model}: gives logits of {logits.shape} for {len(tokens)} tokens")
    rows = []
    for place, token in enumerate(tokens):
        row, caches = _run(model, session, [token], place, caches)
        rows.append(row[0, -1])
    return np.stack(rows)


def _run(
    model: Path, session: Any, tokens: Sequence[int], past: int, caches: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits of `tokens` after `past` others, and the caches after them."""
    sequence = {
        "input_ids": np.asarray([tokens], np.int64),
        "attention_mask": np.ones((1, past + len(tokens)), np.int64),
        "position_ids": np.arange(past, past + len(tokens), dtype=np.int64)[None],
    }
    types = {entry.name: entry.type for entry in session.get_inputs()}
    feeds = {
        name: array.astype(np.int32 if types[name] == "tensor(int32)" else np.int64)
        for name, array in sequence.items()
        if name in types
    }
    made = {entry.name for entry in session.get_outputs()}
    later = {name: name.replace("past_key_values", "present") for name in caches}
    wanted = ["logits", *(name for name in later.values() if name in made)]
    try:
        logits, *grown = session.run(wanted, {**feeds, **caches})
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common base
        raise ReferenceRefuses(f"{model}: ONNX Runtime cannot run it: {error}") from None
    if logits.ndim != 3:
        raise NotALanguageModel(f"{model}: gives logits of {logits.shape}, not of a sequence")
    found = dict(zip(wanted[1:], grown, strict=True))
    return logits, {name: found.get(present, caches[name]) for name, present in later.items()}


def _empty_caches(model: Path, session: Any, head_dim: int | None) -> dict[str, np.ndarray]:
    """The cache inputs, with no position in them."""
    caches = {}
    for entry in session.get_inputs():
        if entry.name in ("input_ids", "attention_mask", "position_ids"):
            continue
        if not (_CACHE.fullmatch(entry.name) and len(entry.shape) == 4 and entry.type in _DTYPES):
            raise NotALanguageModel(
                f"{model}: not a language model that is known here: input {entry.name}"
            )
        _, heads, _, depth = entry.shape
        depth = depth if isinstance(depth, int) else head_dim
        if not isinstance(heads, int) or not isinstance(depth, int):
            raise NotALanguageModel(
                f"{model}: {entry.name} leaves its heads open, {entry.shape}, and no config.json "
                "beside it says them"
            )
        caches[entry.name] = np.zeros((1, heads, 0, depth), _DTYPES[entry.type])
    return caches


def _surprise(logits: np.ndarray, targets: np.ndarray) -> float:
    """The sum of -log p(target), row by row, in float64."""
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        wide = row.astype(np.float64)
        highest = wide.max()
        total += highest + math.log(np.exp(wide - highest).sum()) - wide[target]
    return total
