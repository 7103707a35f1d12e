"""Verb: search schedules for the GPU kernels of a model, prove them, and remember them.

python -m hetero_tvm.tune model.onnx --target host --trials 256
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero_tvm import cli
from hetero_tvm.arguments import add_device_arguments, add_model_arguments, add_step_arguments
from hetero_tvm.candidates.commands import (
    FEWEST_TRIALS,
    TRIALS_PER_KERNEL,
    add_candidate_arguments,
    default_trials,
    emit,
    take_in,
)
from hetero_tvm.config import default_cache_dir
from hetero_tvm.errors import (
    BadInput,
    DeviceFailure,
    EnvironmentProblem,
    MissingPackage,
    TuningDbUnusable,
)
from hetero_tvm.tuned_programs import configs_of, jobs_of

if TYPE_CHECKING:
    from hetero_tvm.config import BuildConfig
    from hetero_tvm.progress import Progress
    from schedules.cost_model import CostModel
    from schedules.tuner import Job, Tuner
    from schedules.tuner import Progress as Search

EXAMPLES = """\
examples:
  hetero-tvm tune detector.onnx --target host --input x=1x3x320x320 --devices gpu --trials 512
  hetero-tvm tune encoder.onnx --target host --input ids=1x128 --budget 30m --only matmul
  hetero-tvm tune detector.onnx --target snapdragon --input x=1x3x320x320 \\
      --device tracker://192.168.1.5:9190/phone --db tuned/
  hetero-tvm tune encoder.onnx --target host --length 32,128 --input ids=1xL --db tuned/
  hetero-tvm tune model_folder/ --target host --devices gpu --context 1024 --db tuned/
  hetero-tvm tune detector.onnx --target snapdragon --input x=1x3x320x320 --db tuned/ \\
      --emit candidates.tar
  hetero-tvm tune detector.onnx --target snapdragon --input x=1x3x320x320 --db tuned/ \\
      --to ssh://me@board
  hetero-tvm tune --absorb results.json --db tuned/
  hetero-tvm tune --show tuned/ --plot search.png
  hetero-tvm tune --db tuned/ --export kernels.jsonl
  hetero-tvm tune --db tuned/ --merge kernels.jsonl
then: hetero-tvm build detector.onnx --target host --input x=1x3x320x320 --db tuned/

The same command goes on where the last one ended; --trials counts what is there already.
--emit is for a device that cannot be reached from here: unpack the tar there, `python3 run.py`, and
take results.json back with --absorb; emitting again goes on with what came back.

exit codes: 0 tuned, 2 bad input, 3 something is missing on this machine, 4 a device failed or is
gone, 5 our bug, 130 interrupted: every finished trial is kept
"""

_INTERRUPTED = 130
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm tune`."""
    add_model_arguments(parser)
    add_step_arguments(parser, "the kernels of all these lengths")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="schedules to have measured, earlier runs included "
        f"(default {TRIALS_PER_KERNEL} for each kernel, at least {FEWEST_TRIALS})",
    )
    how.add_argument("--budget", metavar="TIME", help="search this long instead: 90s, 30m, 2h")
    parser.add_argument(
        "--device",
        default="local",
        help="where to measure: local, rpc://HOST:PORT or tracker://HOST:PORT/KEY (default local)",
    )
    parser.add_argument(
        "--db", type=Path, metavar="DIR", help="the database (default: tuned/ in the cache folder)"
    )
    parser.add_argument(
        "--only", metavar="REGEX", help="only kernels whose name or operators match"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the search (default 0)")
    parser.add_argument("--show", type=Path, metavar="DIR", help="no model: what a database knows")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="with --show: draw how the searches went"
    )
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="no model: write what others can use"
    )
    parser.add_argument(
        "--merge", type=Path, metavar="PATH", help="no model: take in a file or another database"
    )
    add_candidate_arguments(parser)
    add_device_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Tune, or look after a database."""
    alone = [n for n in ("show", "export", "merge", "absorb") if getattr(args, n) is not None]
    if len(alone) > 1:
        raise BadInput(f"--{alone[0]} and --{alone[1]} are two commands; give one at a time")
    if alone and args.model is not None:
        raise BadInput(f"--{alone[0]} goes without a model")
    if args.plot is not None and args.show is None:
        raise BadInput("--plot goes with --show DIR")
    if args.on is not None and args.emit is None:
        raise BadInput("--on goes with --emit FILE")
    if args.to is not None:
        if alone:
            raise BadInput(f"--{alone[0]} does not go with --to, which measures a model's kernels")
        from hetero_tvm.candidates import there

        there.check_flags(args)
    if args.absorb is not None:
        return take_in(args, _folder(args))
    if alone:
        return _keep(args, alone[0])
    return _search(args)


def _keep(args: argparse.Namespace, what: str) -> int:
    """Show, export or merge."""
    from hetero_tvm import report_tuning, tuning
    from schedules.tuning_db import DbRefused

    folder = args.show or _folder(args)
    if what != "merge" and not folder.is_dir():
        raise TuningDbUnusable(f"{folder}: no such folder; `hetero-tvm tune` makes one")
    db = tuning.open_db(folder, tell=cli.say)
    try:
        if what == "export":
            count = db.export(args.export)
            data: dict[str, Any] = {"records": count, "file": str(args.export)}
            text = f"wrote {count} records to {args.export}"
        elif what == "merge":
            count = db.merge(args.merge, tell=cli.say)
            data = {"records": count, "db": str(folder)}
            text = f"{count} new records are in {folder}"
        else:
            rows = report_tuning.rows(db)
            data, text = {"kernels": rows}, report_tuning.table(rows, verbose=args.verbose > 0)
    except DbRefused as error:
        raise TuningDbUnusable(str(error)) from None
    except OSError as error:
        raise BadInput(f"{args.export or args.merge}: {error.strerror}") from None
    if args.plot is not None:
        report_tuning.draw(args.plot, db)
        text += f"\nwrote {args.plot}"
    if args.json:
        cli.emit_json("tune", data)
    else:
        cli.emit(text)
    return 0


def _search(args: argparse.Namespace) -> int:
    """Tune the kernels of a model."""
    from hetero_tvm.progress import Progress

    budget_s = _budget(args.budget)
    if args.trials is not None and args.trials < 1:
        raise BadInput(f"--trials {args.trials}: at least 1")
    only = _regex(args.only)
    if importlib.util.find_spec("xgboost") is None:
        raise MissingPackage("xgboost is not installed; run: pip install 'hetero-tvm[tune]'")
    folder = _folder(args)
    with Progress(quiet=args.quiet) as progress:
        return _tune(args, folder, only, budget_s, progress)


def _tune(
    args: argparse.Namespace,
    folder: Path,
    only: re.Pattern[str] | None,
    budget_s: float | None,
    progress: Progress,
) -> int:
    from hetero_tvm import compiler, report_tuning, tuning
    from hetero_tvm.candidates.there import tune_there
    from schedules.limits import limits
    from schedules.measure import NoDevice
    from schedules.tuner import Tuner
    from schedules.tuning_db import DbRefused
    from schedules.tvm_target import tvm_target

    configs = configs_of(args)
    db = tuning.open_db(folder, tell=cli.say, write=True)
    costs = compiler.prepare(next(iter(configs.values())), progress)
    if args.emit is not None:
        return emit(args, db, costs, lambda: _jobs(args, configs, costs, only, progress), progress)
    if args.to is not None:
        return tune_there(
            args, db, costs, lambda: _jobs(args, configs, costs, only, progress), progress
        )
    tuning.places(args.device, costs.spec.gpu)  # says now what would be found out after the work
    jobs = _jobs(args, configs, costs, only, progress)
    gpu = costs.spec.gpu
    trials = args.trials
    if trials is None and budget_s is None:
        trials = default_trials(jobs)
    with tuning.open_pool(args.device, gpu, cli.say) as pool:
        tuner = Tuner(
            pool,
            db,
            limit=limits(gpu),
            target=tvm_target(gpu),
            seed=args.seed,
            tell=progress.note,
        )
        progress.note(
            f"{len(jobs)} kernels, measured on {', '.join(pool.places)} "
            f"({tuner.where.device}, driver {tuner.where.driver})"
        )
        try:
            tuner.run(
                jobs,
                trials=trials,
                budget_s=budget_s,
                show=lambda search: progress.note(_line(search)),
            )
        except KeyboardInterrupt:
            cli.say(f"interrupted; every finished trial is in {folder}. The same command goes on")
            return _INTERRUPTED
        except NoDevice as error:
            raise DeviceFailure(
                f"{error}; every finished trial is in {folder}. The same command goes on"
            ) from None
        except DbRefused as error:
            raise EnvironmentProblem(str(error)) from None
        rows = _rows(tuner, jobs)
        overall = tuner.gain(jobs)
    if args.json:
        cli.emit_json("tune", {"db": str(folder), "gain": overall, "kernels": rows})
    else:
        cli.emit(report_tuning.table(rows, verbose=args.verbose > 0))
        cli.emit(
            f"All calls of these kernels together: {overall:.2f} x as fast as by default, "
            f"measured.\nUse it: hetero-tvm build {args.model} … --db {folder}"
        )
    return 0


def _jobs(
    args: argparse.Namespace,
    configs: Mapping[str, BuildConfig],
    costs: CostModel,
    only: re.Pattern[str] | None,
    progress: Progress,
) -> list[Job]:
    """The kernels to search for, at least one."""
    every = jobs_of(configs, costs, progress)
    jobs = [job for job in every if only is None or _matches(only, job)]
    if not jobs:
        names_known = ", ".join(job.kernel.name for job in every[:8])
        raise BadInput(
            f"--only {args.only}: no GPU kernel of that name; there are {names_known}"
            if every
            else "the plan has no kernel for the GPU; --devices gpu plans one"
        )
    return jobs


def _rows(tuner: Tuner, jobs: list[Job]) -> list[dict[str, Any]]:
    from hetero_tvm import report_tuning

    rows = [report_tuning.row(job.kernel, tuner.standing(job), job.calls) for job in jobs]
    return sorted(rows, key=lambda row: -(row["default_us"] or 0) * row["calls"])


def _line(search: Search) -> str:
    """One line of progress."""
    of = f" of {search.total}" if search.total is not None else ""
    best, default = search.best_s, search.default_s
    return (
        f"trial {search.done}{of}  {search.job.kernel.name} {search.job.kernel.shapes}: "
        f"best {best * 1e6:.1f} µs, default {default * 1e6:.1f} µs; "
        f"all kernels {search.gain:.2f} x; {_clock(search.left_s)} left"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def _matches(only: re.Pattern[str], job: Job) -> bool:
    ops = map(str, job.func.attrs.get("hetero.ops") or ())
    return any(only.search(text) for text in (job.kernel.name, job.kernel.key, *ops))


def _folder(args: argparse.Namespace) -> Path:
    return args.db or default_cache_dir() / "tuned"


def _budget(text: str | None) -> float | None:
    """Seconds of `--budget 30m`."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if found is None or float(found[1]) <= 0:
        raise BadInput(f"--budget {text}: write a time above 0 with a unit, as in 90s, 30m or 2h")
    return float(found[1]) * _UNITS[found[2]]


def _regex(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise BadInput(f"--only {text}: no regular expression: {error}") from None


if __name__ == "__main__":
    sys.exit(cli.verb_main("tune"))
