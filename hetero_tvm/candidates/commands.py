"""`hetero-tvm tune --emit` and `--absorb`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero_tvm import cli
from hetero_tvm.errors import BadInput, CannotWrite, TuningDbUnusable

if TYPE_CHECKING:
    from hetero_tvm.progress import Progress
    from schedules.cost_model import CostModel
    from schedules.tuner import Job
    from schedules.tuning_db import TuningDb
    from schedules.tuning_records import Where

TRIALS_PER_KERNEL = 16
FEWEST_TRIALS = 64
NEW = "new"  # of `--on`: no device that the database knows


def add_candidate_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags for a device that cannot be reached."""
    parser.add_argument(
        "--emit",
        type=Path,
        metavar="FILE.tar",
        help="measure nothing here: pack --trials candidates with a program that runs them on a "
        "machine without network",
    )
    parser.add_argument(
        "--on",
        metavar="TEXT",
        help="with --emit: go on with what is known of the device with this in its name, or "
        f"`{NEW}`, a first round (default: the only one that the database knows)",
    )
    parser.add_argument(
        "--absorb", type=Path, metavar="FILE", help="no model: take in the results of that program"
    )


def default_trials(jobs: list[Job]) -> int:
    """How many schedules are tried where nobody says."""
    return max(FEWEST_TRIALS, TRIALS_PER_KERNEL * len(jobs))


def emit(
    args: argparse.Namespace,
    db: TuningDb,
    costs: CostModel,
    find_jobs: Callable[[], list[Job]],
    progress: Progress,
) -> int:
    """Pack candidates for the kernels that `find_jobs` finds; the exit code."""
    from hetero_tvm.candidates.pack import PROGRAM_FOLDER, pack
    from schedules.limits import limits
    from schedules.proposals import propose
    from schedules.tuning_records import Where
    from schedules.tvm_target import tvm_target

    _check_flags(args)
    gpu = costs.spec.gpu
    limit, target = limits(gpu), tvm_target(gpu)
    where = _known_device(db, limit.text, args.on)  # said before the work
    jobs = find_jobs()
    count = args.trials if args.trials is not None else default_trials(jobs)
    proposals = propose(
        jobs,
        db,
        where or Where(device="", driver="", limits=limit.text),
        limit=limit,
        target=target,
        seed=args.seed,
        count=count,
        show=lambda done: progress.note(f"{done} of {count} candidates are chosen"),
    )
    if not proposals:
        raise BadInput("nothing is left to try: every schedule of these kernels was measured")
    try:
        packed = pack(
            args.emit,
            proposals,
            limit=limit,
            target=target,
            seed=args.seed,
            only=where,
            db=db.folder,
            tell=cli.say,
            show=lambda done: progress.note(f"{done} of {count} candidates are built"),
        )
    except OSError as error:
        raise CannotWrite(f"{error.filename}: {error.strerror}") from None
    told: dict[str, Any] = {
        "file": str(args.emit),
        "id": packed.id,
        "kernels": packed.kernels,
        "candidates": packed.candidates,
        "bytes": packed.bytes,
        "device": None if where is None else where.device,
        "driver": None if where is None else where.driver,
        "db": str(db.folder),
    }
    if args.json:
        cli.emit_json("tune", told)
        return 0
    whose = f"{where.device}, driver {where.driver}" if where else "any device, a first round"
    cli.emit(
        f"wrote {args.emit}: {packed.candidates} candidates of {packed.kernels} kernels, "
        f"{packed.bytes / 1e6:.1f} MB, for {whose}.\n"
        f"There: tar xf {args.emit.name} && python3 {PROGRAM_FOLDER}/run.py\n"
        f"Then here: hetero-tvm tune --absorb results.json --db {db.folder}"
    )
    return 0


def take_in(args: argparse.Namespace, folder: Path) -> int:
    """Take results into the database `folder`; the exit code."""
    from hetero_tvm import report_tuning, tuning
    from hetero_tvm.candidates.absorb import absorb
    from schedules.tuning_db import DbRefused

    if not folder.is_dir():
        raise TuningDbUnusable(
            f"{folder}: no such folder; name with --db the one that --emit was given"
        )
    db = tuning.open_db(folder, tell=cli.say, write=True)
    try:
        taken = absorb(args.absorb, db)
    except DbRefused as error:
        raise CannotWrite(str(error)) from None
    kernels, standings = db.kernels(), db.standings()
    rows = [
        report_tuning.row(kernels[key], standings[key, taken.where])
        for key in taken.keys
        if (key, taken.where) in standings
    ]
    if args.json:
        told = {"fresh": taken.fresh, "good": taken.good, "quarantined": taken.quarantined}
        cli.emit_json(
            "tune", {"db": str(folder), **told, "missing": taken.missing, "kernels": rows}
        )
        return 0
    cli.emit(report_tuning.table(rows, verbose=args.verbose > 0))
    missing = f"; {taken.missing} have no result yet" if taken.missing else ""
    cli.emit(
        f"{taken.fresh} new results from {taken.where.device}, driver {taken.where.driver}: "
        f"{taken.good} right, {taken.quarantined} quarantined{missing}"
    )
    return 0


def _check_flags(args: argparse.Namespace) -> None:
    if args.budget is not None or args.device != "local":
        wrong = "--budget" if args.budget is not None else "--device"
        raise BadInput(f"{wrong} does not go with --emit, which measures nothing here")
    if args.emit.is_dir() or not args.emit.resolve().parent.is_dir():
        raise BadInput(f"--emit {args.emit}: name a file in a folder that is there")


def _known_device(db: TuningDb, limits: str, text: str | None) -> Where | None:
    """Whose records the search goes on from; None: a first round on any device."""
    if text == NEW:
        return None
    known = {where for _, where in db.standings() if where.limits == limits}
    fit = [
        w for w in known if text is None or text.lower() in f"{w.device}, driver {w.driver}".lower()
    ]
    if len(fit) == 1:
        return fit[0]
    names = "; ".join(sorted(f"{w.device}, driver {w.driver}" for w in known)) or "none"
    if text is not None:
        count = "several devices" if fit else "no device"
        raise BadInput(f"--on {text}: {count} of that name in {db.folder} (known: {names})")
    if fit:
        raise BadInput(
            f"{db.folder} knows several devices ({names}); choose one with --on TEXT, or --on {NEW}"
        )
    return None
