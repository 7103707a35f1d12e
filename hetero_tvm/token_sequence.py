"""A sequence of tokens on a language model, wherever the model runs.

How much of the cache is filled is all that it knows; a step writes what follows.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from hetero_tvm.bundle import LanguageModel, Manifest
from hetero_tvm.errors import BadInput, ContextFull
from hetero_tvm.lengths import way
from hetero_tvm.loader import is_simulated
from hetero_tvm.surroundings import Surroundings

_DECODE = 1

Chooser = Callable[[np.ndarray, Sequence[int]], int]
"""(logits [vocabulary] float32, tokens so far) -> the next token. The array is only lent."""

Step = tuple[int, list[int]]
"""Rows of a step of the artefact, and as many tokens or fewer."""


def greedy(logits: np.ndarray, _tokens: Sequence[int]) -> int:
    """The most likely token; of equals the first."""
    return int(np.argmax(logits))


class TokenSequence(abc.ABC):
    """One sequence, empty at first. Not thread-safe."""

    def __init__(self, manifest: Manifest, description: LanguageModel) -> None:
        self.manifest, self.description = manifest, description
        self.load_seconds = 0.0
        self._predicted_us = {
            v.length: float(v.plan["predicted_us"]) for v in self.manifest.variants
        }
        self._tokens: list[int] = []

    @abc.abstractmethod
    def _step(self, rows: int, tokens: list[int], *, wanted: bool) -> np.ndarray:
        """Run the step of `rows` tokens on as many or fewer, and append them.

        The logits [vocabulary] behind the last one, float32; where not `wanted`, anything.
        """

    @property
    def surroundings(self) -> Surroundings:
        """The machine that it runs on."""
        return Surroundings()

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens whose keys and values the cache holds."""
        return tuple(self._tokens)

    @property
    def simulated(self) -> bool:
        """True where the artefact is made for a chip that this machine is not."""
        return is_simulated(self.manifest)

    @property
    def capacity(self) -> int:
        """The longest sequence, in tokens."""
        return self.description.capacity

    @property
    def cache_bytes(self) -> int:
        """Memory of the caches, which does not grow."""
        return sum(
            int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
            for spec in self.description.caches
        )

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        """Append `tokens`; the logits [vocabulary] of what follows the last one.

        The array is the session's own memory, valid until its next step.

        Raises:
            BadInput: no tokens, one that the model does not have, or more than there is room for.
        """
        steps = self.steps(tokens)
        logits = np.empty(0, np.float32)
        for number, (rows, part) in enumerate(steps, 1):
            logits = self._step(rows, part, wanted=number == len(steps))
        return logits

    def steps(self, tokens: Sequence[int]) -> list[Step]:
        """How `prefill` takes `tokens` in, by the plans' predictions; raises as it does."""
        checked = self._checked(tokens)
        pieces = way(len(checked), self._predicted_us, padding=True, chunking=True)
        assert pieces is not None
        return [(piece.length, checked[piece.start : piece.start + piece.size]) for piece in pieces]

    def decode(self, token: int) -> np.ndarray:
        """Append one token; the logits of what follows. See `prefill`."""
        return self._step(_DECODE, self._checked([token]), wanted=True)

    def generate(
        self,
        tokens: Sequence[int],
        *,
        max_new_tokens: int,
        choose: Chooser = greedy,
        stop_tokens: Collection[int] | None = None,
    ) -> Iterator[int]:
        """Append `tokens`, then yield token after token until one of `stop_tokens` or the limit.

        The stop token is not yielded, and neither it nor the last token yielded is in the cache
        yet. Ends too where the cache is full.

        Args:
            tokens: what comes after the session's tokens.
            max_new_tokens: yielded at most.
            choose: picks from the logits.
            stop_tokens: those of the model where None.
        """
        stops = self.description.stop_tokens if stop_tokens is None else tuple(stop_tokens)
        logits = self.prefill(tokens)
        for number in range(max_new_tokens):
            token = choose(logits, self._tokens)
            if token in stops:
                return
            yield token
            if number + 1 == max_new_tokens or len(self._tokens) == self.capacity:
                return
            logits = self.decode(token)

    def reset(self, length: int = 0) -> None:
        """Forget all tokens but the first `length`; costs nothing."""
        if not 0 <= length <= len(self._tokens):
            raise BadInput(f"reset to {length} tokens: the session has {len(self._tokens)}")
        del self._tokens[length:]

    def _checked(self, tokens: Sequence[int]) -> list[int]:
        found = self._in_vocabulary([int(token) for token in tokens])
        if not found:
            raise BadInput("no tokens given")
        if len(self._tokens) + len(found) > self.capacity:
            raise ContextFull(
                f"{len(self._tokens) + len(found)} tokens in one sequence, this artefact holds "
                f"{self.capacity}; shorten the prompt, or rebuild it with a larger --context"
            )
        return found

    def _in_vocabulary(self, tokens: list[int]) -> list[int]:
        size = self.description.vocabulary
        wrong = [token for token in tokens if not 0 <= token < size]
        if wrong:
            raise BadInput(f"token {wrong[0]}: the model's are 0 to {size - 1}")
        return tokens
