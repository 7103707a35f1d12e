"""The search for one kernel: TVM's evolutionary search and cost model over a `search_space.Space`.

What is known beforehand is proposed first, in this order: what the default schedule chooses, then
what was best for neighbours. Then traces evolve; MetaSchedule's model of gradient-boosted trees
ranks them, and learns from every time that is told to it.

A kernel that is written by hand has a list of tiles instead, which is gone through: neighbours'
first, then those that differ from the default's in one size, then the others. The default's is
measured anyhow.

Requires: xgboost (`pip install 'hetero-tvm[tune]'`).
Ensures:  the same seed and the same times give the same proposals.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import IRModule, s_tir, tirx
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.cost_model.xgb_model import XGBConfig

from schedules.attention_space import SKETCH, WrittenSpace
from schedules.limits import Limits
from schedules.search_space import seeds, space_of
from schedules.trials import ENTRY, plain, scheduled_hash, trial_module
from schedules.tuning_records import Choice

# Small populations: with the sizes of TVM's own (512, 4) a batch takes longer to think of than to
# measure, and these spaces are small.
_POPULATION = 64
_GENERATIONS = 3
_FRESH = 24  # of a population that is not from measured ones
_ENDLESS = 1 << 30
_ROUNDS = 3  # of proposals that are all known before the search is taken to be at its end


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One schedule to be measured."""

    choice: Choice
    mod: IRModule
    scheduled: str  # hash of the kernel
    schedule: s_tir.Schedule = dataclasses.field(compare=False)


class KernelSearch:
    """Proposes schedules for one kernel, and learns how fast they are."""

    def __init__(
        self,
        func: tirx.PrimFunc,
        limit: Limits,
        target: tvm.target.Target,
        *,
        batch: int,
        seed: int,
        neighbours: Sequence[Choice] = (),
    ) -> None:
        """`func`: unscheduled, of which `space_of` gives a space; `batch`: proposals at a time."""
        logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.ERROR)
        space = space_of(plain(func), limit)
        assert space is not None
        self.space = space
        self._seen: dict[Choice, float] = {}
        self._proposed: set[str] = set()  # hashes: two choices can make one kernel
        self._batch = batch
        self._seed, self._guesses = seed, 0
        self._evolving = False
        self._context: ms.TuneContext | None = None
        if isinstance(space, WrittenSpace):
            default, *points = map(_tile, space.points)
            kernel = self.draw(default)
            assert kernel is not None
            self._proposed.add(kernel.scheduled)  # it is measured as the default
            order = np.random.default_rng(seed).permutation(len(points))
            drawn = sorted((points[place] for place in order), key=default.differences)
            self._first = [*neighbours, *drawn]
            return
        self._first = [Choice.of(*seed) for seed in seeds(space.func, limit)] + list(neighbours)
        with _without_tensor_intrinsics():
            self._context = ms.TuneContext(
                IRModule({ENTRY: space.func}),
                target=target,
                space_generator=space.generator(),
                search_strategy=ms.search_strategy.EvolutionarySearch(
                    population_size=_POPULATION,
                    genetic_num_iters=_GENERATIONS,
                    init_min_unmeasured=_FRESH,
                ),
                num_threads=1,  # more would make the order of a search depend on the machine
                rand_state=1 + seed % (2**31 - 3),
            )
        self._model = ms.cost_model.XGBModel(
            config=XGBConfig(nthread=1, seed=seed % (2**31)), num_warmup_samples=0
        )
        self._found = ms.database.MemoryDatabase()
        self._workload = self._found.commit_workload(self._context.mod)
        self._arguments = ms.arg_info.ArgInfo.from_entry_func(self._context.mod, True)

    def know(self, trials: Sequence[tuple[Choice, float]]) -> None:
        """Take in what was measured before; infinite where it failed."""
        drawn = []
        for choice, seconds in trials:
            candidate = self.draw(choice)
            self._seen[choice] = seconds
            if candidate is not None and candidate.scheduled not in self._proposed:
                self._proposed.add(candidate.scheduled)
                drawn.append((candidate, seconds))
        self._learn(drawn)

    def propose(self) -> list[Candidate]:
        """The next schedules to measure; none when there is nothing new."""
        fresh: list[Candidate] = []
        while self._first and len(fresh) < self._batch:
            candidate = self.draw(self._first.pop(0))
            if candidate is not None and self._is_new(candidate):
                fresh.append(candidate)
        for _ in range(_ROUNDS):
            if fresh:
                return fresh
            proposals = self._evolve()
            if proposals is None:
                return []
            fresh = [candidate for candidate in proposals if self._is_new(candidate)]
        return fresh

    def learn(self, measured: Sequence[tuple[Candidate, float]]) -> None:
        """How many seconds proposals took; infinite where they failed, or are wrong."""
        for candidate, seconds in measured:
            self._seen[candidate.choice] = seconds
        self._learn(measured)

    # --- inside --------------------------------------------------------------------------------

    def _is_new(self, candidate: Candidate) -> bool:
        if candidate.choice in self._seen or candidate.scheduled in self._proposed:
            return False
        self._proposed.add(candidate.scheduled)
        return True

    def draw(self, choice: Choice) -> Candidate | None:
        """The schedule of a choice, made to fit; None where it does not."""
        if choice.sketch not in self.space.names:
            return None
        sch = self.space.draw(choice.sketch, choice.as_dict)
        if sch is None:
            return None
        if isinstance(self.space, WrittenSpace):
            drawn = choice.sketch, self.space.nearest(choice.as_dict)
        else:
            drawn = self.space.decisions(sch.trace)
        return Candidate(
            choice=Choice.of(*drawn),
            mod=trial_module(sch),
            scheduled=scheduled_hash(sch),
            schedule=sch,
        )

    def _evolve(self) -> list[Candidate] | None:
        """Drawn from the choices that evolved, None at the end.

        A mutated trace keeps what a sketch made of the choices before: it is drawn anew.
        """
        if self._context is None or isinstance(self.space, WrittenSpace):
            return None
        if not self._evolving:
            self._context.pre_tuning(
                _ENDLESS, self._batch, database=self._found, cost_model=self._model
            )
            self._evolving = True
        with self._seeded():
            proposals = self._context.generate_measure_candidates()
        if not proposals:
            return None
        # MetaSchedule only counts here; what it learns from is the database and the model.
        unknown = [ms.runner.RunnerResult(None, "not measured yet")] * len(proposals)
        self._context.notify_runner_results(proposals, unknown)
        space = self.space
        drawn = [self.draw(Choice.of(*space.decisions(p.sch.trace))) for p in proposals]
        return [candidate for candidate in drawn if candidate is not None]

    @contextlib.contextmanager
    def _seeded(self) -> Iterator[None]:
        """A model that has learnt nothing guesses, by numpy's own generator."""
        before = np.random.get_state()
        self._guesses += 1
        np.random.seed((self._seed + self._guesses) % (2**32))
        try:
            yield
        finally:
            np.random.set_state(before)

    def _learn(self, measured: Sequence[tuple[Candidate, float]]) -> None:
        if not measured or self._context is None:
            return
        candidates, results = [], []
        for candidate, seconds in measured:
            works = math.isfinite(seconds)
            candidates.append(ms.MeasureCandidate(candidate.schedule, self._arguments))
            results.append(
                ms.runner.RunnerResult([seconds] if works else None, None if works else "failed")
            )
            if works:
                self._found.commit_tuning_record(
                    ms.database.TuningRecord(
                        candidate.schedule.trace,
                        self._workload,
                        [seconds],
                        self._context.target,
                        self._arguments,
                    )
                )
        self._update(candidates, results)

    def _update(self, candidates: list[Any], results: list[Any]) -> None:
        self._model.update(self._context, candidates, results)


def _tile(point: Mapping[str, int]) -> Choice:
    """A point of a kernel that is written by hand."""
    return Choice.of(SKETCH, {name: [size] for name, size in point.items()})


@contextlib.contextmanager
def _without_tensor_intrinsics() -> Iterator[None]:
    """TVM parses hundreds of CUDA's and Hexagon's intrinsics with the first context: 20 seconds.

    No sketch has any; where they are imported already, they stay.
    """
    name = "tvm.s_tir.tensor_intrin"
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = types.ModuleType(name)
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]
