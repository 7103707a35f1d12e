"""Where a running artefact's numbers leave those of its model.

The virtual machine tells of each of its calls. After each kernel and region all devices are waited
for, and what was written is compared with ONNX Runtime's value of the operator that it is. So the
artefact itself is looked at, as it was fused, split and placed, and not a variant of it; but since
it is slowed down, a mistake in the order of its devices would not show.

Memory may show a value in another order of axes (channels last, stored permuted), and a part of a
split operator is a part of its value: both are tried before anything is called different.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hetero_tvm.output_error import Tolerance, compare
from relay_passes.calls import Call, Result, parts_of
from relay_passes.plan import OpPlan, Plan

# So far beyond anything computed that only masks hold it; in float16 these are the largest number.
_MASK = 1e30
_HALF_MASK = 65000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probed:
    """One tensor that a call wrote, against its reference."""

    position: int  # of the call
    device: str
    symbol: str
    operator: str  # of the plan
    op: str
    part: str | None  # of a split operator: as in "elements 0 to 3 of axis 0"
    layout: tuple[int, ...] | None  # order in which memory has the axes, where it is another
    relative_error: float
    cosine: float
    held: bool
    read_error: float  # the largest of what the call read, 0 where that was exact
    gain: float  # its error over that, or over one rounding where that is more


class Probe:
    """The instrument of a virtual machine that compares what each call wrote.

    Args:
        calls: of the function that will run, in order.
        plan: by which it was made.
        reference: operator -> its value.
        reads: operator -> operators that it reads.
        tolerance: what holds.
        rounding: unit round-off of the arithmetic.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        plan: Plan,
        reference: Mapping[str, np.ndarray],
        reads: Mapping[str, Sequence[str]],
        tolerance: Tolerance,
        rounding: float,
    ) -> None:
        self.found: list[Probed] = []
        self.unknown = 0  # results without a reference, or of no layout that is known
        self._calls = calls
        self._ops = {op.name: op for op in plan.ops}
        self._part_of = {part.name: (op, part.of) for op in plan.ops for part in parts_of(op)}
        self._reference = reference
        self._reads = reads
        self._tolerance = tolerance
        self._rounding = rounding
        self._position = 0
        self._errors: dict[str, float] = {}  # operator -> the largest error of its parts so far

    def __call__(self, _function: Any, symbol: str, before: bool, _result: Any, *args: Any) -> int:
        """What TVM calls around each call."""
        waiting = self._position < len(self._calls)
        if before or not waiting or self._calls[self._position].symbol != symbol:
            return 0
        call = self._calls[self._position]
        for result, tensor in zip(call.results, args[len(args) - len(call.results) :], strict=True):
            # The copy waits for all devices.
            self._compare(call, result, np.array(tensor.numpy()))
        self._position += 1
        return 0

    def _compare(self, call: Call, result: Result, array: np.ndarray) -> None:
        op, of = self._part_of.get(result.operator, (self._ops.get(result.operator), ""))
        if op is None or op.name not in self._reference:
            self.unknown += 1
            return
        wanted = _part(self._reference[op.name], op, of)
        best = nearest_layout(array, wanted, self._tolerance)
        if best is None:
            self.unknown += 1
            return
        axes, error = best
        read = [
            self._errors[name]
            for operator in call.operators
            for name in self._reads.get(self._owner(operator), ())
            if name in self._errors
        ]
        largest = max(read, default=0.0)
        self._errors[op.name] = max(self._errors.get(op.name, 0.0), error.relative_error)
        self.found.append(
            Probed(
                position=self._position,
                device=call.device,
                symbol=call.symbol,
                operator=op.name,
                op=op.op,
                part=_part_words(op, of),
                layout=axes,
                relative_error=error.relative_error,
                cosine=error.cosine,
                held=error.held,
                read_error=largest,
                gain=error.relative_error / max(largest, self._rounding),
            )
        )

    def _owner(self, operator: str) -> str:
        known = self._part_of.get(operator)
        return known[0].name if known else operator


def first_bad(found: Sequence[Probed]) -> dict[str, Probed]:
    """Device -> its first result that does not hold, in the order of the program."""
    first: dict[str, Probed] = {}
    for probed in found:
        if not probed.held:
            first.setdefault(probed.device, probed)
    return first


def suspects(found: Sequence[Probed], most: int = 3) -> list[Probed]:
    """Operators where the error grows the most, of those at or before the first bad result."""
    bad = next((probed.position for probed in found if not probed.held), None)
    if bad is None:
        return []
    considered = [p for p in found if p.position <= bad and p.relative_error > 0]
    ranked = sorted(
        considered,
        key=lambda p: (p.gain, p.relative_error),
        reverse=True,
    )
    return ranked[:most]


def nearest_layout(
    array: np.ndarray, wanted: np.ndarray, tolerance: Tolerance
) -> tuple[tuple[int, ...] | None, Any] | None:
    """(order of axes, error) of the order in which `array` is the nearest to `wanted`.

    The order is None where the array lies as the reference does. None: no order of axes has the
    array's shape; a mere reshape counts as the same order.
    """
    if array.size != wanted.size:
        return None
    best: tuple[tuple[int, ...] | None, Any] | None = None
    for axes in _orders(wanted.shape, array.shape):
        seen = wanted if axes is None else np.transpose(wanted, axes)
        error = _error(array.reshape(seen.shape), seen, tolerance)
        if best is None or error.relative_error < best[1].relative_error:
            best = axes, error
        if best[1].held:
            return best
    return best


def _orders(wanted: tuple[int, ...], shape: tuple[int, ...]) -> Iterator[tuple[int, ...] | None]:
    """Ways to see a tensor of shape `wanted` as one of `shape`, as it is first."""
    yield None  # as it is, or reshaped
    rank = len(wanted)
    for axes in itertools.permutations(range(rank)):
        if axes != tuple(range(rank)) and tuple(wanted[axis] for axis in axes) == shape:
            yield axes


def _error(array: np.ndarray, wanted: np.ndarray, tolerance: Tolerance) -> Any:
    """Storage may be of half width: what is compared is the value."""
    if array.dtype != wanted.dtype:
        array = array.astype(wanted.dtype)
    if wanted.dtype.kind == "f":
        # Beside what a mask has put out of the way nothing else would show in a norm.
        masked = (np.abs(wanted) > _MASK) & (np.abs(array) > _HALF_MASK)
        array, wanted = np.where(masked, 0, array), np.where(masked, 0, wanted)
    (error,) = compare({"": array}, {"": wanted}, tolerance)
    return error


def _part(wanted: np.ndarray, op: OpPlan, of: str) -> np.ndarray:
    """The part of an operator's value that is `of` a device; "": all of it."""
    if op.cut is None or not of:
        return wanted
    first, second = np.split(wanted, [op.cut.at], axis=op.cut.axis)
    return first if of == "npu" else second


def _part_words(op: OpPlan, of: str) -> str | None:
    if op.cut is None or not of:
        return None
    begin, end = op.cut.of(of)
    return f"elements {begin} to {end - 1} of axis {op.cut.axis}"
