"""Measure kernels in processes of their own, one for each device, with a limit on time.

    pool = Pool([Place("local", command), …])
    pool.time([module, …])  -> an `Outcome` each

A crash or a hang ends the process of that device and costs the one trial it was at; the process is
started again. A device that cannot be reached any more is dropped, and its trial goes to another;
a device of another kind than the first is reported and not used.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from tvm import IRModule, ir

from schedules.race import longest
from schedules.trial_process import Gone, Identity, Place, Worker

TRIAL_S = 30.0  # building and running one kernel
_AT_LEAST_S = 0.1  # of running, for one figure
_ATTEMPTS = 2  # trials lost in a row, or starts that failed, before a far device is given up


class NoDevice(Exception):
    """Nothing is left that could measure; the message says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one trial."""

    seconds: tuple[float, ...] = ()  # of single runs; empty where it failed
    beside: tuple[float, ...] = ()  # of the module that ran in turns with it
    kind: str = "ok"  # or "error" (it said so), "crash", "timeout"
    error: str = ""
    place: str = ""
    raced: tuple[dict[str, float], ...] = ()  # of a race
    arrays: dict[int, np.ndarray] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def median(self) -> float:
        """Seconds of a run; infinite where it failed."""
        return statistics.median(self.seconds) if self.seconds else math.inf

    def against(self, beside_s: float | None) -> float:
        """Seconds of a run, in the time of `beside` at its best, which takes `beside_s` alone."""
        if beside_s is None or not self.beside:
            return self.median
        return self.median / statistics.median(self.beside) * beside_s


@dataclasses.dataclass
class _Task:
    """One request, and where its answer goes."""

    place: int
    request: dict[str, Any]
    lost: int = 0  # times that a far device went away with it


class Pool:
    """Devices of one kind, asked side by side."""

    def __init__(
        self,
        places: Sequence[Place],
        *,
        limit_s: float = TRIAL_S,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Start a process for each of `places`.

        Raises:
            NoDevice: none of them answers.
        """
        self._note = note
        self._limit_s = limit_s
        self._folder = tempfile.TemporaryDirectory(prefix="hetero_trials_")
        self._files = 0
        self._kept: dict[str, str] = {}  # module -> its file
        self._workers: list[Worker] = []
        self.identity: Identity | None = None
        self.add(places)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def places(self) -> list[str]:
        """Names of the devices in use."""
        return [worker.place.name for worker in self._workers]

    def add(self, places: Sequence[Place]) -> None:
        """More devices.

        Raises:
            NoDevice: none of them answers, and there is no other.
        """
        why: list[str] = []
        workers = [Worker(place, self._limit_s) for place in places]
        failed: dict[int, str] = {}

        def start(number: int) -> None:
            try:
                workers[number].start()
            except (Gone, OSError) as error:
                workers[number].stop()
                failed[number] = str(error)

        threads = [threading.Thread(target=start, args=(n,)) for n in range(len(workers))]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:
            for worker in workers:
                worker.stop()
            raise
        for number, worker in enumerate(workers):
            if number in failed:
                why.append(f"{worker.place.name}: {failed[number]}")
                continue
            self.identity = self.identity or worker.identity
            if worker.identity != self.identity:
                assert worker.identity is not None and self.identity is not None
                worker.stop()
                why.append(
                    f"{worker.place.name} is {worker.identity.device} with driver "
                    f"{worker.identity.driver}, not {self.identity.device} with "
                    f"{self.identity.driver}: not used"
                )
                continue
            self._workers.append(worker)
        if not self._workers:
            raise NoDevice("; ".join(why) or "no device was given")
        for line in why:
            self._note(line)

    def close(self) -> None:
        """End every process and remove every file."""
        for worker in self._workers:
            worker.stop()
        self._workers.clear()
        self._folder.cleanup()

    def time(
        self,
        modules: Sequence[IRModule],
        *,
        slow_s: float | None = None,
        beside: IRModule | None = None,
    ) -> list[Outcome]:
        """Time modules of one function each; order is kept.

        Args:
            modules: scheduled.
            slow_s: what is far slower is not timed more than once.
            beside: runs in turns with each, so that ratios can be trusted on a busy machine.

        Raises:
            NoDevice: the last device is gone.
        """
        paths = [self._write(mod) for mod in modules]
        rival = None if beside is None else self._lasting(beside)
        slow = slow_s if slow_s is None or math.isfinite(slow_s) else None
        options = {"at_least_s": _AT_LEAST_S, "slow_s": slow, "beside": rival}
        outcomes = self._all([{"do": "time", "path": path, **options} for path in paths])
        self._remove(paths)
        return outcomes

    def race(self, modules: Sequence[IRModule], default: IRModule) -> list[dict[str, float]]:
        """Run modules in pairs with `default` on one device: see `schedules.race`.

        None at all where one of them fails.
        """
        *paths, beside = (self._write(mod) for mod in [*modules, default])
        most_s = longest(len(modules), self._limit_s)
        request = {"do": "race", "paths": paths, "default": beside, "most_s": most_s}
        (outcome,) = self._all([request])
        self._remove([*paths, beside])
        return list(outcome.raced)

    def outputs(self, mod: IRModule, inputs: Sequence[np.ndarray]) -> Outcome:
        """Run `mod` on `inputs`; its `arrays` are what it wrote, by parameter."""
        path, given, result = self._write(mod), self._path("npz"), self._path("npz")
        named: dict[str, Any] = {f"a{n}": array for n, array in enumerate(inputs)}
        np.savez(given, **named)
        request = {"do": "outputs", "path": path, "inputs": given, "result": result}
        (outcome,) = self._all([request])
        if outcome.kind == "ok":
            with np.load(result) as arrays:
                found = {int(name[1:]): arrays[name] for name in arrays.files}
            outcome = dataclasses.replace(outcome, arrays=found)
        self._remove([path, given, result])
        return outcome

    # --- inside --------------------------------------------------------------------------------

    def _all(self, requests: Sequence[dict[str, Any]]) -> list[Outcome]:
        """Ask all devices until every request has its outcome."""
        waiting = deque(_Task(place, request) for place, request in enumerate(requests))
        done: dict[int, Outcome] = {}
        lock = threading.Lock()  # guards waiting and done
        busy = 0

        def work(worker: Worker) -> None:
            nonlocal busy
            failures = 0
            while True:
                with lock:
                    if not waiting:
                        if busy == 0:
                            return
                        task = None
                    else:
                        task = waiting.popleft()
                        busy += 1
                if task is None:  # another device may yet lose its trial
                    time.sleep(0.02)
                    continue
                outcome, alive = self._try(worker, task)
                with lock:
                    busy -= 1
                    if outcome is None:
                        waiting.appendleft(task)
                    else:
                        done[task.place] = outcome
                failures = 0 if alive else failures + 1
                if failures >= _ATTEMPTS and not self._returns(worker):
                    return

        workers = list(self._workers)
        if not workers:
            raise NoDevice("no device is left")
        threads = [threading.Thread(target=work, args=(w,), daemon=True) for w in workers]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():  # in steps, so that Ctrl-C is heard
                    thread.join(0.2)
        except BaseException:
            for worker in workers:
                worker.stop()
            raise
        if len(done) < len(requests):
            raise NoDevice("the last device is gone")
        return [done[place] for place in range(len(requests))]

    def _try(self, worker: Worker, task: _Task) -> tuple[Outcome | None, bool]:
        """The outcome, None to try again elsewhere; and whether the device is still there."""
        name = worker.place.name
        try:
            answer = worker.ask(task.request)
        except (Gone, OSError) as error:
            kind = error.kind if isinstance(error, Gone) else "crash"
            if kind == "start":
                return None, False
            if worker.place.far and kind != "timeout" and task.lost < 1:
                task.lost += 1
                return None, False
            return Outcome(kind=kind, error=str(error), place=name), False
        if "error" in answer:
            if answer.get("lost"):  # the connection broke; by the kernel's fault, or without
                worker.stop()
                if task.lost < 1:
                    task.lost += 1
                    return None, False
                return Outcome(kind="crash", error=answer["error"], place=name), False
            return Outcome(kind="error", error=answer["error"], place=name), True
        seconds, beside, raced = (tuple(answer.get(f, ())) for f in ("seconds", "beside", "raced"))
        return Outcome(seconds=seconds, beside=beside, raced=raced, place=name), True

    def _returns(self, worker: Worker) -> bool:
        """Whether a device that failed again and again can be started; else it is dropped."""
        try:
            if worker.start() == self.identity:
                return True
            why = "it is another device now"
        except (Gone, OSError) as error:
            why = str(error)
        worker.stop()
        if worker in self._workers:
            self._workers.remove(worker)
        self._note(f"{worker.place.name} is dropped: {why}")
        return False

    def _path(self, suffix: str) -> str:
        self._files += 1
        return str(Path(self._folder.name) / f"{self._files}.{suffix}")

    def _write(self, mod: IRModule) -> str:
        path = self._path("json")
        Path(path).write_text(ir.save_json(mod))
        return path

    def _lasting(self, mod: IRModule) -> str:
        """The file of a module that is asked for again and again."""
        text = ir.save_json(mod)
        if text not in self._kept:
            self._kept[text] = self._path("json")
            Path(self._kept[text]).write_text(text)
        return self._kept[text]

    def _remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            Path(path).unlink(missing_ok=True)
