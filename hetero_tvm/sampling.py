"""The next token from the model's logits.

In this order, as Hugging Face's `generate` has it: repetition penalty, temperature, top-k, top-p,
min-p, then a draw. Nothing sorts the vocabulary: top-k and top-p select a few candidates by
partition, min-p and the draw look once at every value that is left.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from hetero_tvm.errors import BadInput, WrongNumbers

_FIRST_CANDIDATES = 64  # that top-p looks at; four times as many while they are too few


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose. The defaults choose the most likely token.

    Raises:
        BadInput: a value out of its range, which the message says.
    """

    temperature: float = 0.0  # 0: the most likely token
    top_k: int = 0  # of that many likeliest tokens; 0: of all
    top_p: float = 1.0  # of the fewest likeliest tokens with that probability together
    min_p: float = 0.0  # of those that have that share of the likeliest one's probability
    repetition_penalty: float = 1.0  # above 1: tokens that were there become less likely
    seed: int | None = None  # None: another text every time

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0 <= self.temperature < math.inf, "at least 0")
        _check("top-k", self.top_k, self.top_k >= 0, "at least 0")
        _check("top-p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        _check("min-p", self.min_p, 0 <= self.min_p <= 1, "0 to 1")
        penalty = self.repetition_penalty
        _check("repetition penalty", penalty, 0 < penalty < math.inf, "above 0")
        _check("seed", self.seed, self.seed is None or self.seed >= 0, "at least 0")


def _check(name: str, value: object, holds: bool, wanted: str) -> None:
    if not holds:
        raise BadInput(f"{name} {value}: {wanted}")


class Sampler:
    """Chooses token after token of one text; calls with the same seed choose alike."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def __call__(self, logits: np.ndarray, tokens: Sequence[int]) -> int:
        """The next token after `tokens`.

        Args:
            logits: [vocabulary], not changed.
            tokens: those of the text so far, prompt and answer.

        Raises:
            DeviceFailure: a logit is not a number.
        """
        settings = self.sampling
        if settings.repetition_penalty != 1.0 and len(tokens):
            logits = _penalised(logits, tokens, settings.repetition_penalty)
        best = int(np.argmax(logits))  # of a NaN too, if there is one
        highest = float(logits[best])
        if math.isnan(highest) or highest == -math.inf:
            raise WrongNumbers("the model's logits are not numbers; the artefact is not to be used")
        if settings.temperature == 0.0:
            return best
        candidates = None
        if 0 < settings.top_k < len(logits):
            candidates = np.argpartition(logits, -settings.top_k)[-settings.top_k :]
            logits = logits[candidates]
        powers = np.exp((logits.astype(np.float64) - highest) / settings.temperature)
        if settings.top_p < 1.0:
            kept = _nucleus(powers, settings.top_p)
            powers = powers[kept]
            candidates = kept if candidates is None else candidates[kept]
        if settings.min_p > 0.0:
            powers = np.where(powers >= settings.min_p, powers, 0.0)  # the likeliest one's is 1
        sums = np.cumsum(powers)
        place = int(np.searchsorted(sums, self._random.random() * sums[-1], side="right"))
        place = min(place, len(sums) - 1)
        return place if candidates is None else int(candidates[place])


def _penalised(logits: np.ndarray, tokens: Sequence[int], penalty: float) -> np.ndarray:
    """Each token that was there less likely, whatever the sign of its logit."""
    seen = np.unique(np.asarray(tokens, np.int64))
    changed = logits.astype(np.float32, copy=True)
    values = changed[seen]
    changed[seen] = np.where(values < 0, values * penalty, values / penalty)
    return changed


def _nucleus(powers: np.ndarray, share: float) -> np.ndarray:
    """Places of the fewest largest values that are at least `share` of the sum together."""
    wanted = share * powers.sum()
    count = min(_FIRST_CANDIDATES, len(powers))
    while True:
        largest = (
            np.argpartition(powers, -count)[-count:]
            if count < len(powers)
            else np.arange(len(powers))
        )
        largest = largest[np.argsort(-powers[largest], kind="stable")]
        sums = np.cumsum(powers[largest])
        if sums[-1] >= wanted or count == len(powers):
            return largest[: int(np.searchsorted(sums, wanted)) + 1]
        count = min(4 * count, len(powers))
