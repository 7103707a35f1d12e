"""Which schedules to measure next, where nobody measures while the search runs.

A round of candidates leaves, is measured elsewhere, and comes back as records; the next round goes
on from these. Within a round nothing is learnt, so kernels share it by what they take of a run.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import tvm
from tvm import s_tir, tirx

from schedules.attention_space import Written
from schedules.blocks import extent
from schedules.kernel_search import Candidate, KernelSearch
from schedules.limits import Limits
from schedules.search_space import space_of
from schedules.trials import plain
from schedules.tuner import BATCH, Job
from schedules.tuning_db import TuningDb
from schedules.tuning_records import Standing, Where


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposal:
    """Candidates of one kernel."""

    job: Job
    candidates: tuple[Candidate, ...]


def propose(
    jobs: Sequence[Job],
    db: TuningDb,
    where: Where,
    *,
    limit: Limits,
    target: tvm.target.Target,
    seed: int,
    count: int,
    show: Callable[[int], None] = lambda done: None,
) -> list[Proposal]:
    """`count` new schedules, fewer where there are no more.

    Args:
        jobs: the kernels of a program.
        db: what is known.
        where: whose records the search goes on from; an unknown device has none.
        limit, target: of the device.
        seed: of the search.
        count: of candidates in all.
        show: called with how many there are.
    """
    standings = db.standings()
    known = {
        job.kernel.key: standings.get((job.kernel.key, where), Standing(job.kernel.key, where))
        for job in jobs
    }
    left = [job for job in jobs if space_of(plain(job.func), limit) is not None]
    seconds = _seconds(left, known)
    searches: dict[str, KernelSearch] = {}
    found: dict[str, list[Candidate]] = {}
    taken: Counter[str] = Counter()

    def worth(job: Job) -> float:
        key = job.kernel.key
        tried = len(known[key].trials) + taken[key]
        return job.calls * seconds[key] / (1 + tried / BATCH)

    while left and taken.total() < count:
        job = max(left, key=worth)
        key = job.kernel.key
        if key not in searches:
            searches[key] = _search(job, db, known[key], limit, target, seed)
        fresh = searches[key].propose()
        if not fresh:
            left.remove(job)
            continue
        fresh = fresh[: count - taken.total()]
        found.setdefault(key, []).extend(fresh)
        taken[key] += len(fresh)
        show(taken.total())
    return [
        Proposal(job=job, candidates=tuple(found[job.kernel.key]))
        for job in jobs
        if job.kernel.key in found
    ]


def _search(
    job: Job,
    db: TuningDb,
    standing: Standing,
    limit: Limits,
    target: tvm.target.Target,
    seed: int,
) -> KernelSearch:
    search = KernelSearch(
        job.func,
        limit,
        target,
        batch=BATCH,
        seed=seed + len(standing.trials),  # another round does not draw the same again
        neighbours=db.neighbours(job.kernel, standing.where),
    )
    bad = {choice for choice, _ in standing.quarantined()}
    search.know([(c, math.inf if c in bad else s) for c, s in standing.trials])
    return search


def _seconds(jobs: Sequence[Job], known: Mapping[str, Standing]) -> dict[str, float]:
    """Seconds of each kernel: measured, or in proportion to its loops as the measured ones are."""
    work = {job.kernel.key: float(iterations(job.func)) for job in jobs}
    measured = {}
    for key in work:
        standing = known[key]
        default = standing.default_s if standing.default_good else None
        best = min(standing.fastest_s, math.inf if default is None else default)
        if math.isfinite(best):
            measured[key] = best
    rate = sum(measured.values()) / sum(work[key] for key in measured) if measured else 1e-9
    return {key: measured.get(key, rate * amount) for key, amount in work.items()}


def iterations(func: tirx.PrimFunc) -> int:
    """How often the innermost statements of an unscheduled function run, all together.

    Attention, written by hand, has no such statements: what it computes with its cache half full.
    """
    written = Written.of(func)
    if written is not None:
        return written.iterations
    sch = s_tir.Schedule(func)
    return sum(
        math.prod(extent(sch, loop) for loop in sch.get_loops(block))
        for block in sch.get_child_blocks(sch.get_sblock("root"))
    )
