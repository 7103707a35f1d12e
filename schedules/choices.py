"""The sizes that a sketch leaves open: drawn by the search, or as decided before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import s_tir

from schedules.blocks import extent


class Choices:
    """Makes the choices of one schedule: sampled, or as decided before."""

    def __init__(self, decided: Mapping[str, Sequence[int]] | None = None) -> None:
        self.decided = decided or {}
        self.names: list[str] = []

    def split(
        self,
        sch: s_tir.Schedule,
        name: str,
        loop: Any,
        parts: int,
        *,
        innermost: int,
    ) -> tuple[list[Any], list[Any]]:
        """Split `loop` into `parts` that divide it; the loops and their sizes (expressions)."""
        self.names.append(name)
        decision = None
        if name in self.decided:
            decision = fitted(self.decided[name], extent(sch, loop), parts, innermost)
        sizes = sch.sample_perfect_tile(
            loop, n=parts, max_innermost_factor=innermost, decision=decision
        )
        return list(sch.split(loop, sizes)), list(sizes)

    def pick(self, sch: s_tir.Schedule, name: str, options: Sequence[int]) -> Any:
        """One of `options`, which ascend (an expression); as decided: the largest that is no more.

        A loop need not be a multiple of it.
        """
        self.names.append(name)
        decision = None
        if name in self.decided:
            (wanted,) = self.decided[name]
            decision = max(0, sum(option <= wanted for option in options) - 1)
        even = [1 / len(options)] * len(options)
        return sch.sample_categorical(list(options), even, decision=decision)


def fitted(factors: Sequence[int], size: int, parts: int, innermost: int) -> list[int]:
    """`factors` of another loop, made to divide one of `size`: the inner ones first."""
    inner: list[int] = []
    rest = size
    wanted = list(factors)[-(parts - 1) :] if parts > 1 else []
    wanted = [1] * (parts - 1 - len(wanted)) + wanted
    for place, factor in enumerate(reversed(wanted)):
        limit = min(factor, innermost) if place == 0 else factor
        best = max(n for n in range(1, max(1, min(limit, rest)) + 1) if rest % n == 0)
        inner.append(best)
        rest //= best
    return [rest, *reversed(inner)]
