"""Builds, checks and times candidates on one device: the part of the runner that can crash."""

from __future__ import annotations

import functools
import math
import zlib
from typing import Any, Protocol

from hetero_tvm.candidates.opencl import Handle, OpenCl, Run
from hetero_tvm.candidates.values import Refused, drawn, filling, relative_error, repeated, unpacked
from schedules.race import race

_ROUNDS = 5  # of a candidate and the default in turns
_AT_LEAST_S = 0.02  # of running, for one figure
_MOST_RUNS = 200  # for one figure


class Files(Protocol):
    """What `runner.Folder` is to this."""

    kernels: list[dict[str, Any]]

    def read(self, name: str) -> bytes: ...  # noqa: D102


class Server:
    """Answers requests; each is a method, its arguments are plain data."""

    def __init__(self, folder: Files, cl: OpenCl) -> None:
        self.folder = folder
        self.cl = cl
        self._number: int | None = None  # of the kernel whose tensors are on the device
        self._sets: list[list[Handle]] = []  # for each draw: a buffer for every parameter
        self._wanted: list[dict[int, Any]] = []  # for each draw: expected values by parameter
        self._default: Run | None = None

    def hello(self) -> dict[str, str]:
        """What the device is."""
        return {"device": self.cl.name, "driver": self.cl.driver}

    def trial(self, kernel: int, candidate: int, slow_s: float | None) -> dict[str, Any]:
        """Check one candidate, then time it in turns with the default, number 0.

        Far slower ones than `slow_s` are timed once.
        """
        about = self._take(kernel)
        chosen = about["candidates"][candidate]
        worst = 0.0
        for number, draw in enumerate(about["draws"]):
            run = self._load(chosen, number)
            error = self._check(about, number, run)
            self.cl.drop(run)
            if not error <= about["tolerance"]:
                values = "edge values" if draw["edge"] else "random values"
                return {"how": f"wrong on {values}: relative error {error:.1e}"}
            worst = max(worst, error)
        run = self._load(chosen, 0)
        beside = self._beside(about) if candidate else None
        once = self.cl.time(run, 1)
        rounds, count = _ROUNDS, _count(once)
        if slow_s is not None and once > 3 * slow_s:
            rounds, count = 1, 1
        seconds, others = [], []
        for _ in range(rounds):
            seconds.append(self.cl.time(run, count))
            if beside is not None:
                others.append(self.cl.time(beside, count))
        self.cl.drop(run)
        return {"how": "ok", "seconds": seconds, "beside": others, "error": worst}

    def race(self, kernel: int, candidates: list[int], most_s: float) -> dict[str, Any]:
        """Some candidates in pairs with the default: what `schedules.race` says of each."""
        about = self._take(kernel)
        runs = [self._load(about["candidates"][n], 0) for n in [*candidates, 0]]
        for run in runs:
            self.cl.time(run, 1)
        *ours, default = (functools.partial(self.cl.time, run) for run in runs)
        raced = race(ours, default, most_s=most_s)
        for run in runs:
            self.cl.drop(run)
        return {"raced": raced}

    def _take(self, number: int) -> dict[str, Any]:
        """Put a kernel's tensors on the device."""
        about = self.folder.kernels[number]
        if number == self._number:
            return about
        for buffers in self._sets:
            for buffer in buffers:
                self.cl.release(buffer)
        if self._default is not None:
            self.cl.drop(self._default)
        self._sets, self._wanted, self._default, self._number = [], [], None, None
        for draw in about["draws"]:
            buffers, fixed = [], dict(draw["fixed"])
            for place, (shape, dtype) in enumerate(about["parameters"]):
                count = math.prod(shape)
                if place in about["outputs"]:
                    content = filling(count, dtype)
                else:
                    content = (
                        repeated(fixed[place], count, dtype)
                        if place in fixed
                        else drawn(draw["seed"], place, count, dtype, edge=draw["edge"])
                    )
                    if zlib.crc32(content) != draw["crc32"][place]:
                        raise Refused("this Python draws other inputs from a seed; take another")
                buffers.append(self.cl.upload(content))
            self._sets.append(buffers)
            self._wanted.append(
                {
                    place: unpacked(self.folder.read(draw["expected"][lane]), dtype)
                    for lane, (place, dtype) in enumerate(about["expected"])
                }
            )
        self._number = number
        return about

    def _load(self, chosen: dict[str, Any], number: int) -> Run:
        """What launches a candidate's kernels on the tensors of a draw."""
        source = self.folder.read(chosen["file"]).decode()
        return self.cl.run_of(
            source, chosen["launches"], self._sets[number], scratch=chosen["scratch"]
        )

    def _beside(self, about: dict[str, Any]) -> Run:
        if self._default is None:
            self._default = self._load(about["candidates"][0], 0)
            self.cl.time(self._default, 1)
        return self._default

    def _check(self, about: dict[str, Any], number: int, run: Run) -> float:
        """The largest relative error of what a candidate writes."""
        buffers, worst = self._sets[number], 0.0
        for place in about["outputs"]:
            shape, dtype = about["parameters"][place]
            self.cl.write(buffers[place], filling(math.prod(shape), dtype))
        self.cl.time(run, 1)
        for place in about["outputs"]:
            shape, dtype = about["parameters"][place]
            size = len(filling(1, dtype)) * math.prod(shape)
            got = unpacked(self.cl.read(buffers[place], size), dtype)
            worst = max(worst, relative_error(got, self._wanted[number][place], dtype))
        return worst


def _count(once: float) -> int:
    """How many runs make a figure, where one takes `once` seconds."""
    return max(1, min(_MOST_RUNS, math.ceil(_AT_LEAST_S / max(once, 1e-7))))
