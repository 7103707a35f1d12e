"""A time below which no choice can bring the operators that are left.

Weigh the GPU's clock with λ and the NPU's with 1-λ. Whatever is chosen, an operator moves the
weighted clock by at least

    load  min over choices of  λ gpu + (1-λ) npu           and, where all that follows needs it,
    full  min over choices of  the time of a whole; λ gpu + (1-λ) npu of a split

because a whole result keeps the other device waiting, and a split never keeps it less than its own
part; what the GPU makes in two parts keeps the NPU waiting for the first. So after operator k the
weighted clock moves on by at least `tail[k]`, the greater of: the
longest path of `full`; `load` of everything between k and the operator p that all paths from k
pass, `full` of p, and `tail[p]`. Every λ gives a bound; a few are tried. Waits count nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from relay_passes.planner.problem import Choice, Problem

Floats = npt.NDArray[np.float64]
_LAMBDAS: Floats = np.linspace(0.0, 1.0, 17)
_PASSES_TRIED = 4  # operators that everything passes, ahead of where we stand


def _load(choice: Choice) -> Floats:
    return _LAMBDAS * choice.us.get("gpu", 0.0) + (1 - _LAMBDAS) * choice.us.get("npu", 0.0)


def _full(choice: Choice) -> Floats:
    if choice.makes is not None:
        return _load(choice)
    (us,) = choice.us.values()
    return us - (1 - _LAMBDAS) * choice.late_us


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


class LowerBound:
    """Bounds for one problem, for any point in its program."""

    def __init__(self, problem: Problem) -> None:
        ops = problem.ops
        count = len(ops)
        self._load = [np.min([_load(c) for c in op.choices], axis=0) for op in ops]
        self._full = [np.min([_full(c) for c in op.choices], axis=0) for op in ops]
        self._before = [0] * count  # bit j of k: k needs j, directly or not
        readers: list[list[int]] = [[] for _ in ops]
        for index, op in enumerate(ops):
            for maker in op.inputs:
                readers[maker].append(index)
                self._before[index] |= self._before[maker] | 1 << maker
        self._after = [0] * count
        for index in reversed(range(count)):
            for reader in readers[index]:
                self._after[index] |= self._after[reader] | 1 << reader
        self._next = self._passes(readers)
        self._tail = self._tails(readers)
        # For every point: what the weighted clock still moves at least; and what the earlier of
        # the two clocks does, which is all that can be said where operators run beside one another.
        zero = np.zeros_like(_LAMBDAS)
        self._weighted = [zero] * (count + 1)
        self._earlier = [0.0] * (count + 1)
        loads = zero
        for index in reversed(range(count)):
            loads = loads + self._load[index]
            self._weighted[index] = np.max([loads, *self._through(index)], axis=0)
            self._earlier[index] = max(
                self._earlier[index + 1], float(np.max(self._full[index] + self._tail[index]))
            )
        uses_cpu = [any("cpu" in choice.us for choice in op.choices) for op in ops]
        self._cpu_left = [any(uses_cpu[index:]) for index in range(count + 1)]

    def _passes(self, readers: list[list[int]]) -> list[int | None]:
        """For each operator the next that all paths from it to the longest one's end pass."""
        count = len(readers)
        result: list[int | None] = [None] * count
        if not count:
            return result
        sink = max(range(count), key=lambda k: (self._before[k].bit_count(), k))
        main = self._before[sink] | 1 << sink
        depth = [0] * count
        for index in reversed(_bits(main & ~(1 << sink))):
            first, *others = (r for r in readers[index] if main >> r & 1)
            meet = first
            for other in others:
                while meet != other:
                    later, earlier = sorted((meet, other), key=lambda k: (depth[k], -k))[::-1]
                    stepped = result[later]
                    assert stepped is not None, "only the sink passes nothing, and it is least deep"
                    meet, other = stepped, earlier
            result[index], depth[index] = meet, depth[meet] + 1
        return result

    def _sum(self, mask: int) -> Floats:
        total = np.zeros_like(_LAMBDAS)
        for index in _bits(mask):
            total = total + self._load[index]
        return total

    def _tails(self, readers: list[list[int]]) -> list[Floats]:
        tails = [np.zeros_like(_LAMBDAS)] * len(readers)
        for index in reversed(range(len(readers))):
            found = [np.zeros_like(_LAMBDAS)]
            found += [self._full[reader] + tails[reader] for reader in readers[index]]
            last = self._next[index]
            if last is not None:
                between = self._sum(self._after[index] & self._before[last])
                found.append(between + self._full[last] + tails[last])
            tails[index] = np.max(found, axis=0)
        return tails

    def _through(self, index: int) -> list[Floats]:
        """By way of operators that need all that is done before operator `index`."""
        done = (1 << index) - 1
        found: list[Floats] = []
        last: int | None = index
        for _ in range(_PASSES_TRIED):
            if last is None:
                break
            if self._before[last] & done == done:
                between = self._sum(self._before[last] & ~done)
                found.append(between + self._full[last] + self._tail[last])
            last = self._next[last]
        return found

    def of_points(self, index: int, cpu: Floats, gpu: Floats, npu: Floats) -> Floats:
        """Bounds of the total for clocks (three arrays, µs) before operator `index`."""
        weighted = np.outer(gpu, _LAMBDAS) + np.outer(npu, 1 - _LAMBDAS) + self._weighted[index]
        earlier = np.minimum(gpu, npu)
        if self._cpu_left[index]:
            earlier = np.minimum(earlier, cpu)
        bound: Floats = np.maximum(weighted.max(axis=1), earlier + self._earlier[index])
        return np.maximum(bound, cpu)

    def of_all(self) -> float:
        """A bound of the total of the whole problem, µs."""
        start = np.zeros(1)
        return float(self.of_points(0, start, start, start)[0])
