"""`hetero-tvm tune --to`: candidates go to a device, are proven and timed there, and come back.

What goes there is what `--emit` packs, a program for Python and OpenCL, by the transport that
deployments take; what comes back is absorbed like any results. So nothing is trusted that `--emit`
does not trust, no port is opened, and the device needs nothing of ours.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero_tvm import cli
from hetero_tvm.candidates.absorb import Absorbed, absorb
from hetero_tvm.candidates.commands import default_trials
from hetero_tvm.candidates.pack import PROGRAM_FOLDER, pack, pack_program
from hetero_tvm.candidates.runner import PROGRAM
from hetero_tvm.errors import (
    BadInput,
    CannotWrite,
    DeviceFailure,
    DeviceLacks,
    ResultsRefused,
)
from hetero_tvm.transports.address import open_transport
from hetero_tvm.transports.transport import Transport
from schedules.limits import limits
from schedules.proposals import propose
from schedules.tuner import gain_of
from schedules.tuning_db import DbRefused
from schedules.tuning_records import Standing, Where
from schedules.tvm_target import tvm_target

if TYPE_CHECKING:
    from hetero_tvm.progress import Progress
    from schedules.cost_model import CostModel
    from schedules.tuner import Job
    from schedules.tuning_db import TuningDb

# What one round measures before the search learns from it: packing and the way there and back are
# paid once a round, a round that is lost costs as much.
ROUND = 64
_START_S = 120.0
_NO_OPENCL = 3  # exit code of the program
_FALLBACK = "HETERO_OPENCL_FALLBACK_LIB"
_INTERRUPTED = 130


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that say otherwise where to measure."""
    for flag, given in (
        ("--device", args.device != "local"),
        ("--emit", args.emit is not None),
        ("--budget", args.budget is not None),
    ):
        if given:
            raise BadInput(f"{flag} does not go with --to, which measures --trials there")
    if args.to.partition(":")[0] in ("rpc", "rpcs"):
        raise BadInput(
            f"--to {args.to}: a device server runs models; tune over ssh or adb, or serve TVM's "
            "RPC there and give --device rpc://HOST:PORT"
        )


def tune_there(
    args: argparse.Namespace,
    db: TuningDb,
    costs: CostModel,
    find_jobs: Callable[[], list[Job]],
    progress: Progress,
) -> int:
    """Tune the kernels that `find_jobs` finds on the device at `args.to`; the exit code."""
    gpu = costs.spec.gpu
    limit, target = limits(gpu), tvm_target(gpu)
    with open_transport(args.to) as transport, tempfile.TemporaryDirectory() as name:
        bench = Bench(transport, args.root, db.folder, Path(name))
        where = Where(limits=limit.text, **bench.device())  # said before the work
        jobs = find_jobs()
        wanted = args.trials if args.trials is not None else default_trials(jobs)
        progress.note(
            f"{len(jobs)} kernels, measured on {transport.where} "
            f"({where.device}, driver {where.driver})"
        )
        if (left := bench.left_behind(db)) is not None:
            progress.note(f"{left.fresh} results of an earlier run were still there")
        interrupted = False
        try:
            while (count := wanted - _tried(db, jobs, where)) > 0 and not interrupted:
                proposals = propose(
                    jobs, db, where, limit=limit, target=target, seed=args.seed,
                    count=min(count, ROUND),
                )  # fmt: skip
                if not proposals:
                    progress.note("nothing is left to try: every schedule was measured")
                    break
                packed = pack(
                    bench.tar, proposals, limit=limit, target=target, seed=args.seed, only=where,
                    db=db.folder, tell=cli.say,
                )  # fmt: skip
                progress.note(f"{packed.candidates} candidates go there")
                done, interrupted = bench.round(db, progress.note)
                if done.fresh == 0:
                    break
        except KeyboardInterrupt:
            interrupted = True
        except DbRefused as error:
            raise CannotWrite(str(error)) from None
        if interrupted:
            cli.say(f"interrupted; finished trials are in {db.folder}. The same command goes on")
            return _INTERRUPTED
        bench.remove()
    return _tell(args, db, jobs, where)


class Bench:
    """A folder on the device where candidates are measured."""

    def __init__(self, transport: Transport, root: str | None, db: Path, scratch: Path) -> None:
        """Make it, and put the program there.

        Raises:
            DeviceFailure: the device is not reached, or has no Python.
        """
        self.transport = transport
        self.tar = scratch / "candidates.tar"
        self._scratch = scratch
        word = shlex.quote(root) if root else transport.default_root()
        mine = hashlib.sha256(str(db.resolve()).encode()).hexdigest()[:12]
        self.folder = transport.check(
            f"mkdir -p {word}/tune/{mine} && cd {word}/tune/{mine} && pwd -P"
        )
        version = transport.run("python3 -c 'import sys; print(sys.version_info >= (3, 9))'")
        if version.text != "True":
            found = "an older one" if version.text == "False" else "none"
            raise DeviceLacks(
                f"{transport.where}: to measure kernels it needs Python 3.9 or newer as python3, "
                f"and has {found}; install it there, or take `tune --emit FILE` to where it is"
            )
        self._library = ""

    def device(self) -> dict[str, str]:
        """Name and driver of the OpenCL device that is measured.

        Raises:
            DeviceFailure: there is none.
        """
        program = self._scratch / "program.tar"
        pack_program(program)
        self._unpack(program)
        words = [""]
        if library := self.transport.environment().get(_FALLBACK):
            words.append(f"--library {shlex.quote(library)}")
        for word in words:
            done = self.transport.run(self._run(f"{word} --who"), timeout_s=_START_S)
            if done.code != _NO_OPENCL:
                break
        self._library = word
        try:
            found = json.loads(done.text)
            return {"device": str(found["device"]), "driver": str(found["driver"])}
        except (ValueError, KeyError, TypeError):
            said = (done.stderr.splitlines() or ["it said nothing"])[-1]
            raise DeviceLacks(f"{self.transport.where}: no OpenCL to measure on: {said}") from None

    def left_behind(self, db: TuningDb) -> Absorbed | None:
        """Take in what an earlier run measured and could not bring back."""
        if self.transport.run(f"[ -f {self._path('results.json')} ]").code != 0:
            return None
        try:
            return self._take(db)
        except ResultsRefused as error:
            aside = "results.refused.json"
            self.transport.check(f"mv -f {self._path('results.json')} {self._path(aside)}")
            cli.say(f"{error}; it is left there as {self.folder}/{aside}")
            return None

    def round(self, db: TuningDb, tell: Callable[[str], None]) -> tuple[Absorbed, bool]:
        """Measure what is in `tar`; what came back, and if Ctrl-C ended it early.

        Raises:
            DeviceFailure: the device is gone, or the program failed there.
        """
        self._unpack(self.tar)
        interrupted = False
        code, said = 0, "it said nothing"
        with self._running() as process:
            try:
                assert process.stderr is not None
                for line in process.stderr:
                    said = line.strip() or said
                    tell(said)
                code = process.wait()
            except KeyboardInterrupt:
                interrupted = True
                self.transport.run(f"kill $(cat {self._path('pid')})")
        if code != 0:
            if self.transport.is_lost(code):
                raise DeviceFailure(
                    f"{self.transport.where}: the line broke. What is finished there is taken in "
                    "by the same command"
                )
            raise DeviceFailure(f"{self.transport.where}: {said.partition('error: ')[2] or said}")
        if interrupted and self.transport.run(f"[ -f {self._path('results.json')} ]").code != 0:
            raise KeyboardInterrupt
        return self._take(db), interrupted

    def remove(self) -> None:
        """Take the folder away."""
        self.transport.check(f"rm -rf {shlex.quote(self.folder)}")

    @contextlib.contextmanager
    def _running(self) -> Iterator[subprocess.Popen[str]]:
        """The program there. Ctrl-C is for this process, which ends it in good order."""
        pid = self._path("pid")
        command = f"echo $$ >{pid}; {self._run(f'{self._library} --results results.json')}"
        process = subprocess.Popen(
            self.transport.argv(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        with process:
            try:
                yield process
            finally:
                process.terminate()

    def _take(self, db: TuningDb) -> Absorbed:
        """Bring results back and into the database, then forget them there."""
        results = self._scratch / "results.json"
        self.transport.pull(f"{self.folder}/results.json", results)
        taken = absorb(results, db)
        self.transport.check(f"rm -f {self._path('results.json')}")
        return taken

    def _unpack(self, tar: Path) -> None:
        there = f"{self.folder}/{tar.name}"
        self.transport.push(tar, there)
        self.transport.check(
            f"cd {shlex.quote(self.folder)} && rm -rf {PROGRAM_FOLDER} && "
            f"tar xf {tar.name} && rm {tar.name}"
        )

    def _run(self, words: str) -> str:
        return (
            f"cd {shlex.quote(self.folder)} && exec python3 -I {PROGRAM_FOLDER}/{PROGRAM} {words}"
        )

    def _path(self, name: str) -> str:
        return shlex.quote(f"{self.folder}/{name}")


def _tried(db: TuningDb, jobs: list[Job], where: Where) -> int:
    standings = db.standings()
    found = [standings.get((job.kernel.key, where)) for job in jobs]
    return sum(len(standing.trials) for standing in found if standing is not None)


def _tell(args: argparse.Namespace, db: TuningDb, jobs: list[Job], where: Where) -> int:
    from hetero_tvm import report_tuning

    known = db.standings()
    mine = {
        job.kernel.key: known.get((job.kernel.key, where))
        or Standing(key=job.kernel.key, where=where)
        for job in jobs
    }
    rows: list[dict[str, Any]] = [
        report_tuning.row(job.kernel, mine[job.kernel.key], job.calls) for job in jobs
    ]
    rows.sort(key=lambda row: -(row["default_us"] or 0) * row["calls"])
    overall = gain_of(jobs, mine)
    if args.json:
        cli.emit_json("tune", {"db": str(db.folder), "gain": overall, "kernels": rows})
        return 0
    cli.emit(report_tuning.table(rows, verbose=args.verbose > 0))
    cli.emit(
        f"All calls of these kernels together: {overall:.2f} x as fast as by default, measured on "
        f"{where.device}.\nUse it: hetero-tvm build {args.model} … --db {db.folder}"
    )
    return 0
