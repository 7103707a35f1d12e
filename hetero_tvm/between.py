"""Lengths between standard ones: which of them are worth a variant, and what each way would take.

    --length 1..512    standards     1  32  64  128      256               512
                       tried                       160 192 224   320 384 448
                       built                                     320   (at most `MOST`)

Standards are whole plans, with NPU graphs of their length. A length between two of them has none:
there the NPU does as many rows as a graph of a standard does, on the same weights, and the GPU the
remainder (activation split), or the NPU's graph has some of the columns (hybrid); what is not cut
is the GPU's. Such a variant is built where it is predicted to be clearly faster than the other ways
to meet its length: to fill up to a standard, or to cut into several.

Requires: costs of all plans from one model of costs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hetero_tvm import compiler, length_proof, pipeline
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig
from hetero_tvm.errors import BadInput
from hetero_tvm.lengths import Way, least_us, way, words
from hetero_tvm.progress import Progress
from relay_passes.plan import Plan

GAIN = 0.1  # of the time of the other ways, that a variant must save: predictions are no better
MOST = 4  # variants between standards in one artefact: each has GPU kernels of its own
_TRIED = 3  # in one gap, at equal distances
_FIRST = 32  # the shortest standard but the range's own ends; those above are twice the one before
_NO_FILL: Mapping[str, float] = {}
_STEP = 8  # rows that a GPU kernel takes together


@dataclasses.dataclass(frozen=True, order=True)
class Span:
    """All lengths from `first` to `last`."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}..{self.last}"

    @property
    def standards(self) -> tuple[int, ...]:
        """Its ends, where the first is shorter than all others, and the powers of two within."""
        powers = []
        length = _FIRST
        while length <= self.last:
            powers.append(length)
            length *= 2
        found = {length for length in powers if length >= self.first} | {self.last}
        return tuple(sorted(found | ({self.first} if self.first < _FIRST else set())))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Between:
    """One length between two standards, with what each way to run it is predicted to take."""

    length: int
    padding_us: float  # filled up to one standard
    chunking_us: float | None  # cut into several; None: not offered
    split_us: float  # on a variant of its own
    kind: str  # what that variant does: activation, hybrid, or gpu where nothing is cut
    way: str  # the cheapest without it, in words
    built: bool = False

    @property
    def saves(self) -> float:
        """Share of the time of the other ways."""
        other = min(self.padding_us, self.chunking_us or self.padding_us)
        return 1 - self.split_us / other if other else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self) | {"saves": self.saves}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """The variants of an artefact for all lengths of a span."""

    span: Span
    plans: Mapping[int, Plan]  # standard length -> its plan
    between: tuple[Between, ...]  # all that were tried
    npu_rows: Mapping[int, tuple[int, ...]]  # length of each of `between` -> rows on offer
    gain: float  # what each that is built saves at least, at its length

    @property
    def built(self) -> tuple[int, ...]:
        """The lengths of all variants, shortest first."""
        return tuple(sorted([*self.plans, *(one.length for one in self.between if one.built)]))

    def to_dict(self) -> dict[str, Any]:
        """As plain data: every time that was predicted."""
        return {
            "span": [self.span.first, self.span.last],
            "least_gain": self.gain,
            "standards": [
                {"length": length, "predicted_us": plan.predicted_us}
                for length, plan in self.plans.items()
            ],
            "between": [one.to_dict() for one in self.between],
            "built": list(self.built),
        }

    def rows_at(self, length: int) -> dict[int, tuple[int, ...]]:
        """`BuildConfig.npu_rows` of the variant for `length`."""
        return {length: self.npu_rows[length]} if length in self.npu_rows else {}


PlanAt = Callable[[int, Mapping[int, tuple[int, ...]]], Plan]
"""Plans the model at a length, with the `BuildConfig.npu_rows` given."""


def choose(
    span: Span,
    plan: PlanAt,
    *,
    tile: int,
    chunking: Callable[[Sequence[int]], bool],
    most: int = MOST,
    gain: float = GAIN,
) -> Chosen:
    """Plan the standards of `span` and lengths between them; which of these are to be built.

    The one is taken first that saves most over all lengths of the span, then the next beside it,
    as long as each saves `gain` at its own length.

    Args:
        span: the lengths that are to be met.
        plan: called once for each length that is looked at.
        tile: rows of the NPU's matrix unit.
        chunking: whether inputs may be cut into pieces of these lengths. That they may be filled
            up is required.
        most: variants between standards.
        gain: share of the time of the other ways.
    """
    plans = {length: plan(length, {}) for length in span.standards}
    us = {length: one.predicted_us for length, one in plans.items()}
    cuts = chunking(span.standards)
    rows = {length: _graph_rows(plans, length) for length in _tried(us, tile, gain)}
    tried = {length: plan(length, {length: rows[length]}) for length in rows}
    between = {length: _between(length, one, us, cuts) for length, one in tried.items()}
    chosen = dict(us)
    worth = [length for length, one in between.items() if one.saves >= gain]
    while worth and len(chosen) < len(us) + most:
        totals = {n: _total(span, {**chosen, n: between[n].split_us}, cuts) for n in worth}
        best = min(worth, key=totals.__getitem__)
        chosen[best] = between[best].split_us
        between[best] = dataclasses.replace(between[best], built=True)
        # What is left must be worth it beside those that there are by now.
        worth = [
            n
            for n in worth
            if n != best and between[n].split_us <= (1 - gain) * _us(n, chosen, cuts)
        ]
    return Chosen(span=span, plans=plans, between=tuple(between.values()), npu_rows=rows, gain=gain)


def choose_for(
    span: Span,
    config_at: Callable[[int], BuildConfig],
    *,
    fill: Mapping[str, float] = _NO_FILL,
    progress: Progress,
) -> Chosen:
    """`choose` for a model.

    Args:
        span: the lengths that are to be met.
        config_at: length -> the build at that length.
        fill: input -> what it is filled up with, 0 where it is not named.
        progress: shown to the user.

    Raises:
        BadInput: the model's outputs change when its inputs are filled up; also where nobody may
            look (`--no-check`), and as planning does.
    """
    config = config_at(span.last)
    if not config.check:
        raise BadInput(
            f"--length {span}: which lengths can be filled up is what --no-check leaves out; name "
            f"lengths instead, as in --length {','.join(map(str, span.standards))}"
        )
    costs = compiler.prepare(config, progress)
    border = length_proof.border(config.model, config.inputs, config_at(span.last + 1).inputs)
    values = length_proof.checked_fill(fill, border)
    phases = [phase for phase in pipeline.PHASES if phase.plan]
    states: dict[int, State] = {}

    def plan(length: int, npu_rows: Mapping[int, tuple[int, ...]]) -> Plan:
        progress.step(f"plan {length}")
        one = dataclasses.replace(config_at(length), output=None, dump_ir=None, npu_rows=npu_rows)
        state, _ = compiler.run_phases(one, costs, phases, Progress(quiet=True))
        assert state.plan is not None
        states.setdefault(0, state)  # one is enough to draw inputs from
        return state.plan

    def chunking(lengths: Sequence[int]) -> bool:
        model = states[0].model
        assert model is not None
        rules = length_proof.prove(config.model, model.ranges, border.axes, lengths, values)
        if not rules.padding:
            raise BadInput(
                f"--length {span}: lengths that are not built cannot be filled up: "
                f"{rules.padding_words}; name the lengths that you need, as in --length 32,64"
            )
        return rules.chunking

    progress.begin({f"plan {length}": 1.0 for length in span.standards})
    return choose(span, plan, tile=costs.spec.npu.tile, chunking=chunking)


def _tried(us: Mapping[int, float], tile: int, gain: float) -> list[int]:
    """Lengths between standards that could be worth it."""
    step = max(tile, _STEP)
    found = []
    lengths = list(us)
    for below, above in itertools.pairwise(lengths):
        if us[below] > (1 - gain) * us[above]:
            continue  # no plan for more rows is much faster than the one for fewer
        apart = (above - below) / (_TRIED + 1)
        points = (below + apart * (i + 1) for i in range(_TRIED))
        rounded = dict.fromkeys(round(point / step) * step for point in points)
        found += [length for length in rounded if below < length < above]
    return found


def _graph_rows(plans: Mapping[int, Plan], length: int) -> tuple[int, ...]:
    """Fewer rows than `length` for which there are NPU graphs, or could be: standards too."""
    found = set(plans)
    for standard, plan in plans.items():
        splits = [op.split for op in plan.ops if op.split is not None and op.macs]
        found |= {split.at for split in splits if split.extent == standard}
    return tuple(sorted(rows for rows in found if 1 < rows < length))


def _between(length: int, plan: Plan, us: Mapping[int, float], cuts: bool) -> Between:
    padded = way(length, us, padding=True, chunking=False)
    best = way(length, us, padding=True, chunking=cuts)
    assert padded is not None and best is not None
    several = best if len(best) > 1 else None
    macs = {"activation": 0, "hybrid": 0, "gpu": 0}
    for op in plan.ops:
        kind = "gpu" if op.split is None else op.split.kind
        macs["hybrid" if kind == "weight" else kind] += op.macs
    split = {kind: macs[kind] for kind in ("activation", "hybrid")}
    return Between(
        length=length,
        padding_us=_of(padded, us),
        chunking_us=_of(several, us) if several else None,
        split_us=plan.predicted_us,
        kind=max(split, key=split.__getitem__) if any(split.values()) else "gpu",
        way=words(best),
    )


def _of(found: Way, us: Mapping[int, float]) -> float:
    return sum(us[piece.length] for piece in found)


def _us(size: int, us: Mapping[int, float], cuts: bool) -> float:
    found = way(size, us, padding=True, chunking=cuts)
    assert found is not None
    return _of(found, us)


def _total(span: Span, us: Mapping[int, float], cuts: bool) -> float:
    """The time of one input of each length."""
    return sum(least_us(span.last, us, chunking=cuts)[span.first :])
