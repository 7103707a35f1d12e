"""A language model that runs on a device; tokens go there, logits come back.

One call there is one step, or a whole prompt's steps: nothing else of it crosses the line. Choosing
a token, and text, are this machine's, so every option of `generate` means the same there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hetero_tvm.bundle import Manifest
from hetero_tvm.errors import DeviceFailure
from hetero_tvm.recording import Recording, record_there
from hetero_tvm.surroundings import DeviceSurroundings, Surroundings
from hetero_tvm.token_sequence import Step, TokenSequence

if TYPE_CHECKING:
    from hetero_tvm.remote import Session


class RemoteLlm(TokenSequence):
    """One sequence on a language model at `path` there; lives as long as `session`."""

    def __init__(self, session: Session, path: str, manifest: Manifest) -> None:
        """Load it. Raises DeviceFailure: it is refused, or fails there."""
        assert manifest.llm is not None
        super().__init__(manifest, manifest.llm)
        self._session = session
        started = time.perf_counter()
        self._function = session.call("hetero_tvm.language_model", path)
        self.load_seconds = time.perf_counter() - started

    @property
    def simulated(self) -> bool:
        """See `TokenSequence.simulated`: by the machine that it runs on."""
        return self.manifest.npu_provider == "qnn" and self.manifest.host == "x86_64"

    @property
    def surroundings(self) -> Surroundings:
        """See `TokenSequence.surroundings`: the device."""
        read = partial(self._session.call, "hetero_tvm.files_json")
        return DeviceSurroundings(read, self.manifest.host)

    def measure(self, steps: Sequence[Step], past: int) -> list[float]:
        """Milliseconds of each of `steps` behind `past` tokens, timed there.

        Writes their rows of the caches; the sequence forgets what lay there.
        """
        self.reset(min(past, len(self._tokens)))
        with self._session.failures():
            return [float(ms) for ms in json.loads(self._function(_packed(steps, past), "measure"))]

    def record(self, steps: Sequence[Step], past: int, runs: int) -> Recording:
        """See `Model.record`: of what `measure` does, on the device's clock."""
        self.reset(min(past, len(self._tokens)))
        with self._session.failures():
            return record_there(partial(self._function, _packed(steps, past), "record"), runs)

    def gpus(self) -> list[dict[str, Any]]:
        """See `Model.gpus`: those of the device."""
        return self._session.gpus()

    def _step(self, rows: int, tokens: list[int], *, wanted: bool) -> np.ndarray:
        with self._session.failures():
            found = bytes(self._function(_packed([(rows, tokens)], len(self._tokens)), wanted))
        logits = np.frombuffer(found, "<f4")
        if wanted and logits.size != self.description.vocabulary:
            raise DeviceFailure(f"logits of {logits.size} tokens came back; deploy it again")
        self._tokens += tokens
        return logits


def _packed(steps: Sequence[Step], past: int) -> bytes:
    """As c_api/language_model.cc unpacks them."""
    words: list[int] = []
    for rows, tokens in steps:
        words += [rows, past, len(tokens), *tokens]
        past += len(tokens)
    return np.array(words, "<i8").tobytes()
