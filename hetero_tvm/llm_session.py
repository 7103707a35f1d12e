"""A language model at work: one sequence, its cache in memory of both devices, tokens in and out.

    session = hetero_tvm.load_llm("model.so")
    for token in session.generate([1, 2, 3], max_new_tokens=20): ...

The cache of every layer is one tensor for the longest sequence, made once: steps write it at their
positions, nothing is moved or grown. The session's only other state is how much of it is filled.
Only token ids here; `tokenizer.py` and the verbs turn text into them and back.

Not thread-safe; a fork may be used beside its origin, but not at the same time.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from hetero_tvm import bundle, runtime
from hetero_tvm.errors import RunFailed, SavedCacheRefused, WrongKindOfModel
from hetero_tvm.loader import Around, Opened, last_line, nothing_around, open_artefact
from hetero_tvm.token_sequence import TokenSequence

_FORMAT = "hetero_tvm kv cache 1"
_MAX_SAVED_BYTES = 64 << 30
# What reading an archive of arrays raises where it is none, or none that is whole.
_NO_ARCHIVE = (
    *(OSError, ValueError, EOFError, KeyError, AttributeError, NotImplementedError),
    *(MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error),
)


def load_llm(path: str | Path) -> LlmSession:
    """Check and load the language model at `path`, with an empty sequence.

    Raises:
        BadInput: as `load`; also an artefact that is no language model.
        EnvironmentProblem, DeviceFailure: as `load`.
    """
    opened = open_artefact(Path(path))
    if opened.manifest.llm is None:
        raise WrongKindOfModel(f"{path}: not a language model; run it with `hetero-tvm run`")
    return LlmSession(opened, opened.manifest.llm)


def read_saved(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a saved cache; which model's and how long is not looked at.

    Raises:
        BadInput: no such file, or it is none that `LlmSession.save` wrote.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            # A size in the file's directory, so that it need not be unpacked to be refused.
            nbytes = sum(entry.file_size for entry in file.zip.infolist())
            if nbytes > _MAX_SAVED_BYTES:
                raise ValueError(f"{nbytes} bytes, at most {_MAX_SAVED_BYTES}")
            found = {name: file[name] for name in file.files}
    except _NO_ARCHIVE as error:
        raise SavedCacheRefused(f"{path}: not a saved cache ({error})") from error
    if str(found.get("format")) != _FORMAT:
        raise SavedCacheRefused(f"{path}: not a saved cache of this version")
    tokens = found.get("tokens")
    if tokens is None or tokens.ndim != 1 or tokens.dtype != np.int64 or "model" not in found:
        raise SavedCacheRefused(f"{path}: damaged: it does not say its model and its tokens")
    return found


class LlmSession(TokenSequence):
    """One sequence of tokens on a language model that is loaded here."""

    def __init__(self, opened: Opened, description: bundle.LanguageModel) -> None:
        import tvm

        super().__init__(opened.manifest, description)
        self.load_seconds = opened.load_seconds
        self.around: Around = nothing_around  # a context for each step, by its function's name
        self._opened = opened
        self._device = opened.device
        self._device_error: type[Exception] = tvm.error.InternalError
        self._steps = {v.length: opened.machine[v.function] for v in self.manifest.variants}
        self._functions = {v.length: v.function for v in self.manifest.variants}
        self._weights = {v.length: opened.weights_of(v.function) for v in self.manifest.variants}
        self._order = {v.length: [spec.name for spec in v.inputs] for v in self.manifest.variants}
        self._caches = {
            spec.name: tvm.runtime.empty(spec.shape, spec.dtype, self._device)
            for spec in description.caches
        }
        for cache in self._caches.values():
            # Positions that nobody wrote are never looked at, but may take part as 0 * value.
            runtime.host_view(cache)[...] = 0
        self._small = {
            name: tvm.runtime.empty((1,), "int32", self._device)
            for name in ("hetero_past", "hetero_last")
        }
        self._ids = {
            rows: tvm.runtime.empty((1, rows), "int64", self._device) for rows in self._steps
        }

    def instrument(self, function: Any | None) -> None:
        """See `Model.instrument`."""
        self._opened.machine.set_instrument(function)

    def fork(self) -> LlmSession:
        """A session of its own with the same tokens; code and weights are shared."""
        other = LlmSession(self._opened, self.description)
        other._tokens = list(self._tokens)
        for spec in self.description.caches:
            filled = runtime.host_view(self._caches[spec.name])[:, :, : len(self._tokens)]
            runtime.host_view(other._caches[spec.name])[:, :, : len(self._tokens)] = filled
        return other

    def save(self, path: str | Path) -> None:
        """Write tokens and the filled part of the cache to `path` (numpy's npz)."""
        path = Path(path)
        held: dict[str, Any] = {
            f"cache {index}": runtime.host_view(self._caches[spec.name])[:, :, : len(self._tokens)]
            for index, spec in enumerate(self.description.caches)
        }
        with bundle.whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                format=np.array(_FORMAT),
                model=np.array(self.manifest.model_sha256),
                tokens=np.array(self._tokens, np.int64),
                **held,
            )

    def load(self, path: str | Path) -> None:
        """Take over what `save` wrote, for the same model; the session is unchanged if it fails.

        Raises:
            BadInput: no such file, no file of `save`, of another model, or too long.
        """
        path = Path(path)
        found = read_saved(path)
        if str(found["model"]) != self.manifest.model_sha256:
            raise SavedCacheRefused(f"{path}: the cache of another model")
        tokens = self._in_vocabulary(found["tokens"].tolist())
        if len(tokens) > self.capacity:
            raise SavedCacheRefused(
                f"{path}: {len(tokens)} tokens, this artefact holds {self.capacity}"
            )
        held = [found.get(f"cache {index}") for index in range(len(self.description.caches))]
        for spec, array in zip(self.description.caches, held, strict=True):
            wanted = (*spec.shape[:2], len(tokens), spec.shape[3])
            if array is None or array.shape != wanted or str(array.dtype) != spec.dtype:
                raise SavedCacheRefused(
                    f"{path}: damaged: {spec.name} is not {list(wanted)} {spec.dtype}"
                )
        for spec, array in zip(self.description.caches, held, strict=True):
            runtime.host_view(self._caches[spec.name])[:, :, : len(tokens)] = array
        self._tokens = tokens

    # --- one step ---------------------------------------------------------------------------------

    def _step(self, rows: int, tokens: list[int], *, wanted: bool) -> np.ndarray:
        """See `TokenSequence._step`; the logits are the session's own memory, wanted or not."""
        ids = runtime.host_view(self._ids[rows])
        ids[0, : len(tokens)] = tokens
        ids[0, len(tokens) :] = 0
        runtime.host_view(self._small["hetero_past"])[0] = len(self._tokens)
        runtime.host_view(self._small["hetero_last"])[0] = len(tokens) - 1
        given = {"input_ids": self._ids[rows], **self._small, **self._caches}
        try:
            with self.around(self._functions[rows]):
                # A second call writes the same rows of the caches again.
                result = runtime.whole_call(
                    self._steps[rows],
                    *(given[name] for name in self._order[rows]),
                    *self._weights[rows],
                )
            logits = runtime.host_view(_only(result))
        except (RuntimeError, self._device_error) as error:
            raise RunFailed(last_line(error)) from error
        self._tokens += tokens
        return logits.reshape(-1).astype(np.float32, copy=False)


def _only(result: Any) -> Any:
    """The one output, bare or in a tuple."""
    return result if hasattr(result, "numpy") else result[0]
