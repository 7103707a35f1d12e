"""A language model that runs on a device; tokens go there, logits come back.

One call there is one step, or a whole prompt's steps: nothing else of it crosses the line. Choosing
a token, and text, are this machine's, so every option of `generate` means the same there.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hetero_tvm.bundle import Manifest
from hetero_tvm.errors import DeviceFailure
from hetero_tvm.surroundings import DeviceSurroundings, Surroundings
from hetero_tvm.token_sequence import TokenSequence

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

    def _step(self, rows: int, tokens: list[int], *, wanted: bool) -> np.ndarray:
        words = np.array([rows, len(self._tokens), len(tokens), *tokens], "<i8")
        with self._session.failures():
            found = bytes(self._function(words.tobytes(), wanted))
        logits = np.frombuffer(found, "<f4")
        if wanted and logits.size != self.description.vocabulary:
            raise DeviceFailure(f"logits of {logits.size} tokens came back; deploy it again")
        self._tokens += tokens
        return logits
