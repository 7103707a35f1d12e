"""Tunes kernels: the heaviest first, every time kept, nothing the best before it is proven.

    baseline    the default schedule of every kernel: its time, and if it is right
    steps       a batch of one kernel's search at a time; the kernel with the most to gain has it
    proof       what would be the best is verified on the device; else it is quarantined
    race        in the end the fastest few run in pairs with the default

Every result is in the database before the next batch begins, so that whatever ends the program
loses no more than the trials in flight.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence

import tvm
from tvm import IRModule, tirx

from schedules.kernel_search import Candidate, KernelSearch
from schedules.limits import Limits
from schedules.measure import Outcome, Pool
from schedules.search_space import space_of
from schedules.trials import plain, trial_module
from schedules.tuned import Pick, drawn
from schedules.tuning_db import TuningDb
from schedules.tuning_records import Choice, Kernel, Record, Standing, Where, kernel_record, record
from schedules.verify import Reference, Verdict, verify

BATCH = 16
_BETTER = 0.98  # of the best time so far, to be worth a verification
_RACERS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One kernel of a program."""

    kernel: Kernel
    func: tirx.PrimFunc  # unscheduled
    default: IRModule  # as the default rules schedule it, ready to be built alone
    calls: int  # in one run of the program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a search is."""

    done: int  # trials, earlier runs' included
    total: int | None  # None: by time
    job: Job
    best_s: float
    default_s: float
    gain: float  # of all kernels together, weighted by what they take
    elapsed_s: float
    left_s: float


def gain_of(jobs: Sequence[Job], standings: Mapping[str, Standing]) -> float:
    """How much faster all calls of all kernels are than by default; `standings` by kernel."""
    default = best = 0.0
    for job in jobs:
        standing = standings[job.kernel.key]
        if standing.default_s is not None:
            default += job.calls * standing.default_s
            faster = standing.gain if standing.is_better and standing.gain else 1.0
            best += job.calls * standing.default_s / faster
    return default / best if best else 1.0


class Tuner:
    """A search over the kernels of one program on one kind of device."""

    def __init__(
        self,
        pool: Pool,
        db: TuningDb,
        *,
        limit: Limits,
        target: tvm.target.Target,
        seed: int = 0,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`tell` is called with a line about whatever is odd."""
        assert pool.identity is not None
        self.pool = pool
        self.db = db
        self.limit = limit
        self.target = target
        self.seed = seed
        self.tell = tell
        self.where = Where(
            device=pool.identity.device, driver=pool.identity.driver, limits=limit.text
        )
        self._standings: dict[str, Standing] = {}
        self._searches: dict[str, KernelSearch] = {}
        self._references: dict[str, Reference] = {}
        self._finished: set[str] = set()

    def run(
        self,
        jobs: Sequence[Job],
        *,
        trials: int | None,
        budget_s: float | None,
        show: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        """Search until `trials` of these kernels are known, or `budget_s` seconds went by.

        Raises:
            NoDevice: the last device is gone; what was measured is kept.
        """
        start = time.monotonic()
        self._standings = {job.kernel.key: self._standing(job) for job in jobs}
        known = self.db.kernels()
        self.db.append(kernel_record(j.kernel) for j in jobs if j.kernel.key not in known)
        self._baselines(jobs)
        before = self._trials()
        tunable = [job for job in jobs if space_of(plain(job.func), self.limit) is not None]
        while True:
            elapsed = time.monotonic() - start
            left = math.inf if trials is None else trials - self._trials()
            open_jobs = [job for job in tunable if job.kernel.key not in self._finished]
            if left <= 0 or not open_jobs or (budget_s is not None and elapsed >= budget_s):
                break
            job = max(open_jobs, key=self._worth)
            self._step(job, most=min(BATCH, left))
            elapsed = time.monotonic() - start
            done = self._trials()
            by_trials = elapsed / max(1, done - before) * max(0.0, (trials or 0) - done)
            by_time = math.inf if budget_s is None else max(0.0, budget_s - elapsed)
            show(
                Progress(
                    done=done,
                    total=trials,
                    job=job,
                    best_s=self._best_s(job),
                    default_s=self._standings[job.kernel.key].default_s or math.inf,
                    gain=self.gain(jobs),
                    elapsed_s=elapsed,
                    left_s=by_time if trials is None else min(by_trials, by_time),
                )
            )
        self._race([job for job in jobs if job in tunable])

    def gain(self, jobs: Sequence[Job]) -> float:
        """See `gain_of`."""
        return gain_of(jobs, self._standings)

    def standing(self, job: Job) -> Standing:
        """What is known of a kernel here."""
        return self._standings[job.kernel.key]

    # --- inside --------------------------------------------------------------------------------

    def _standing(self, job: Job) -> Standing:
        found = self.db.standings().get((job.kernel.key, self.where))
        return found or Standing(key=job.kernel.key, where=self.where)

    def _trials(self) -> int:
        return sum(len(standing.trials) for standing in self._standings.values())

    def _best_s(self, job: Job) -> float:
        """Of the fastest kernel that may be used."""
        standing = self._standings[job.kernel.key]
        default = standing.default_s if standing.default_good else None
        return min(standing.fastest_s, math.inf if default is None else default)

    def _worth(self, job: Job) -> float:
        """What a kernel takes of a run, less the more was tried for it already."""
        standing = self._standings[job.kernel.key]
        seconds = self._best_s(job)
        if not math.isfinite(seconds):
            seconds = standing.default_s or 1.0
        return job.calls * seconds / (1 + len(standing.trials) / BATCH)

    def _note(self, records: Sequence[Record]) -> None:
        self.db.append(records)
        for key, standing in self._standings.items():
            if any(entry["key"] == key for entry in records):
                fresh = self.db.standings().get((key, self.where))
                self._standings[key] = fresh or standing

    def _baselines(self, jobs: Sequence[Job]) -> None:
        missing = [job for job in jobs if self._standings[job.kernel.key].default_s is None]
        outcomes = self.pool.time([job.default for job in missing])
        for job, outcome in zip(missing, outcomes, strict=True):
            verdict = Verdict(good=False, reason=f"{outcome.kind}: {outcome.error}")
            if outcome.kind == "ok":
                verdict = verify(self._reference(job), job.default, self.pool.outputs, self.seed)
            if not verdict.good:
                self.tell(
                    f"{job.kernel.name}: its default schedule is wrong here: {verdict.reason}"
                )
            self._note([_default_record(job.kernel.key, self.where, outcome, verdict)])

    def _reference(self, job: Job) -> Reference:
        if job.kernel.key not in self._references:
            self._references[job.kernel.key] = Reference(plain(job.func))
        return self._references[job.kernel.key]

    def _search(self, job: Job) -> KernelSearch:
        if job.kernel.key not in self._searches:
            search = KernelSearch(
                job.func,
                self.limit,
                self.target,
                batch=BATCH,
                seed=self.seed,
                neighbours=self.db.neighbours(job.kernel, self.where),
            )
            standing = self._standings[job.kernel.key]
            bad = {choice for choice, _ in standing.quarantined()}
            search.know([(c, math.inf if c in bad else s) for c, s in standing.trials])
            self._searches[job.kernel.key] = search
        return self._searches[job.kernel.key]

    def _step(self, job: Job, most: int | float) -> None:
        """Propose, measure, keep, prove, learn."""
        search = self._search(job)
        candidates = search.propose()
        if not candidates:
            self._finished.add(job.kernel.key)
            return
        candidates = candidates[: int(most)]
        standing = self._standings[job.kernel.key]
        beside = job.default if standing.default_good else None
        outcomes = self.pool.time(
            [c.mod for c in candidates], slow_s=self._best_s(job), beside=beside
        )
        seconds = {
            c.choice: o.against(standing.default_s)
            for c, o in zip(candidates, outcomes, strict=True)
        }
        key = job.kernel.key
        self._note(
            [
                _trial_record(key, self.where, c.choice, o, seconds[c.choice])
                for c, o in zip(candidates, outcomes, strict=True)
            ]
        )
        for candidate in sorted(candidates, key=lambda c: seconds[c.choice]):
            if not seconds[candidate.choice] < _BETTER * self._best_s(job):
                break
            if self._prove(job, candidate):
                break
            seconds[candidate.choice] = math.inf
        search.learn([(candidate, seconds[candidate.choice]) for candidate in candidates])

    def _prove(self, job: Job, candidate: Candidate) -> bool:
        standing = self._standings[job.kernel.key]
        number = self.seed + 1 + len(standing.verdicts)
        verdict = verify(self._reference(job), candidate.mod, self.pool.outputs, number)
        if not verdict.good:
            self.tell(f"{job.kernel.name}: a schedule is quarantined: {verdict.reason}")
        key, choice = job.kernel.key, candidate.choice
        self._note([_verdict_record(key, self.where, choice, candidate.scheduled, verdict)])
        return verdict.good

    def _race(self, jobs: Sequence[Job]) -> None:
        """The fastest few against the default, in turns, where that was not done before."""
        for job in jobs:
            standing = self._standings[job.kernel.key]
            if standing.default_s is None or not standing.default_good:
                continue
            ranked = sorted(standing.trials, key=lambda trial: trial[1])
            few = [choice for choice, seconds in ranked if math.isfinite(seconds)][:_RACERS]
            racers = []
            for choice in few:
                judged = standing.verdicts.get(choice)
                done = standing.races.get(choice)
                if done is not None and done.low is not None:  # earlier versions kept no interval
                    continue
                if judged is not None and not judged[0]:
                    continue
                candidate = self._search(job).draw(choice)
                if candidate is not None and (judged or self._prove(job, candidate)):
                    racers.append(candidate)
            if not racers:
                continue
            raced = self.pool.race([racer.mod for racer in racers], job.default)
            for racer, fields in zip(racers, raced, strict=False):  # none where it failed
                self._note([record("race", job.kernel.key, self.where, racer.choice, **fields)])


def reverify(
    pool: Pool,
    db: TuningDb,
    picks: Sequence[tuple[Job, Pick]],
    *,
    limit: Limits,
    tell: Callable[[str], None],
) -> None:
    """Prove picks of another driver on the one of `pool`, and keep what comes out."""
    assert pool.identity is not None
    where = Where(device=pool.identity.device, driver=pool.identity.driver, limits=limit.text)
    for job, found in picks:
        sch = drawn(plain(job.func), found, limit)
        if sch is None:
            continue
        mod, reference = trial_module(sch), Reference(plain(job.func))
        verdict = verify(reference, mod, pool.outputs, seed=1)
        if not verdict.good:
            tell(f"{job.kernel.name}: right before, quarantined now: {verdict.reason}")
        default = verify(reference, job.default, pool.outputs, seed=2)
        ours, theirs = pool.time([mod, job.default])
        raced = pool.race([mod], job.default) if ours.kind == theirs.kind == "ok" else []
        key = job.kernel.key
        db.append(
            [
                _default_record(key, where, theirs, default),
                _trial_record(key, where, found.choice, ours, ours.median),
                _verdict_record(key, where, found.choice, found.scheduled, verdict),
                *(record("race", key, where, found.choice, **fields) for fields in raced),
            ]
        )


def _seconds(seconds: float) -> float | None:
    """As JSON has it."""
    return seconds if math.isfinite(seconds) else None


def _default_record(key: str, where: Where, outcome: Outcome, verdict: Verdict) -> Record:
    return record(
        "default",
        key,
        where,
        seconds=_seconds(outcome.median),
        good=verdict.good,
        reason=verdict.reason,
    )


def _trial_record(
    key: str, where: Where, choice: Choice, outcome: Outcome, seconds: float
) -> Record:
    how, error, place = outcome.kind, outcome.error, outcome.place
    return record(
        "trial", key, where, choice, seconds=_seconds(seconds), how=how, error=error, place=place
    )


def _verdict_record(
    key: str, where: Where, choice: Choice, scheduled: str, verdict: Verdict
) -> Record:
    return record(
        "verdict",
        key,
        where,
        choice,
        good=verdict.good,
        reason=verdict.reason,
        error=_seconds(verdict.error),
        scheduled=scheduled,
    )
