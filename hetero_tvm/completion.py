"""One completion: a prompt's tokens in, pieces of text out, until something ends it.

    completion = Completion(session, tokenizer, prompt, options)
    for piece in completion: print(piece, end="")
    completion.finish_reason, completion.tokens, completion.timing

Tokens that the session already holds at the prompt's beginning are not computed again, so the next
turn of a conversation costs its new tokens only.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from hetero_tvm.errors import BadInput, ContextFull
from hetero_tvm.sampling import Sampler, Sampling
from hetero_tvm.stop_strings import StopStrings

FinishReason = Literal["stop", "length"]


class Session(Protocol):
    """What `LlmSession` offers and a completion needs."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens in the cache."""

    @property
    def capacity(self) -> int:
        """The longest sequence, in tokens."""

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        """Append tokens; the logits after the last one."""

    def decode(self, token: int) -> np.ndarray:
        """Append a token; the logits after it."""

    def reset(self, length: int = 0) -> None:
        """Forget all but the first `length` tokens."""


class TextMaker(Protocol):
    """What turns tokens into text as they come; see `tokenizer.TextStream`."""

    def push(self, token: int) -> str:
        """What can be shown now."""

    def finish(self) -> str:
        """What was held back."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a completion is asked for."""

    max_new_tokens: int | None = None  # None: what the cache has room for
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    stop_tokens: Collection[int] = ()
    stop_strings: Sequence[str] = ()


@dataclasses.dataclass(kw_only=True)
class Timing:
    """Seconds of wall clock, and the tokens that they went into."""

    reused_tokens: int = 0  # of the prompt, which the cache held already
    prefill_tokens: int = 0
    prefill_s: float = 0.0
    ttft_s: float = 0.0  # from the start to the first token
    decode_tokens: int = 0
    decode_s: float = 0.0

    @property
    def prefill_tokens_per_s(self) -> float | None:
        """None where nothing was computed."""
        return self.prefill_tokens / self.prefill_s if self.prefill_s else None

    @property
    def decode_tokens_per_s(self) -> float | None:
        """None where nothing was computed, as where the first token is the last."""
        return self.decode_tokens / self.decode_s if self.decode_s else None


class Completion:
    """One answer, to be iterated once."""

    def __init__(
        self,
        session: Session,
        text: TextMaker | None,
        prompt: Sequence[int],
        options: Options,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Check the request; nothing is computed yet.

        Args:
            session: its sequence is replaced by the prompt's.
            text: of the answer; None where the model works on token ids, then pieces are empty.
            prompt: its tokens.
            options: what ends it, and how tokens are chosen.
            cancelled: asked before each token; ends the completion early.

        Raises:
            BadInput: an empty prompt, one that leaves no room, or a number out of its range.
        """
        room = session.capacity - len(prompt)
        most = options.max_new_tokens
        if not prompt:
            raise BadInput("the prompt is empty")
        if room < 1:
            raise ContextFull(
                f"the prompt has {len(prompt)} tokens, and prompt and answer together may have "
                f"{session.capacity}; shorten it, or build the model with a larger --context"
            )
        if most is not None and most < 1:
            raise BadInput(f"{most} new tokens: at least 1")
        self.tokens: list[int] = []
        self.finish_reason: FinishReason = "length"
        self.timing = Timing()
        self._session, self._text, self._prompt = session, text, list(prompt)
        self._most = room if most is None else min(most, room)
        self._stop_tokens = frozenset(options.stop_tokens)
        self._stops = StopStrings(options.stop_strings)
        self._choose = Sampler(options.sampling)
        self._cancelled = cancelled

    def __iter__(self) -> Iterator[str]:
        """Pieces of the answer as they come; some are empty, so that each token is seen."""
        started = time.perf_counter()
        logits = self._prefill()
        while True:
            token = self._choose(logits, self._session.tokens)
            if not self.tokens:
                self.timing.ttft_s = time.perf_counter() - started
            if token in self._stop_tokens:
                self.finish_reason = "stop"
                break
            self.tokens.append(token)
            yield self._stops.push(self._text.push(token) if self._text else "")
            if self._stops.stopped:
                self.finish_reason = "stop"
                return
            if len(self.tokens) >= self._most or self._cancelled():
                break
            before = time.perf_counter()
            logits = self._session.decode(token)
            self.timing.decode_tokens += 1
            self.timing.decode_s += time.perf_counter() - before
        yield self._stops.push(self._text.finish() if self._text else "") + self._stops.finish()

    def _prefill(self) -> np.ndarray:
        """Compute what the cache lacks of the prompt: one token at least, for its logits."""
        held, prompt = self._session.tokens, self._prompt
        same = next(
            (n for n, (a, b) in enumerate(zip(held, prompt, strict=False)) if a != b),
            min(len(held), len(prompt)),
        )
        same = min(same, len(prompt) - 1)
        self._session.reset(same)
        before = time.perf_counter()
        logits = self._session.prefill(prompt[same:])
        self.timing.reused_tokens, self.timing.prefill_tokens = same, len(prompt) - same
        self.timing.prefill_s = time.perf_counter() - before
        return logits


def usage(completion: Completion, prompt: Sequence[int]) -> dict[str, Any]:
    """Tokens in and out, as OpenAI's interface counts them."""
    return {
        "prompt_tokens": len(prompt),
        "completion_tokens": len(completion.tokens),
        "total_tokens": len(prompt) + len(completion.tokens),
        "prompt_tokens_details": {"cached_tokens": completion.timing.reused_tokens},
    }
