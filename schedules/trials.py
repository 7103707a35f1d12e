"""One kernel built and run on one device: what a process of trials does when it is asked.

Requests and answers are JSON objects, one a line; modules and arrays lie in files beside them. A
process serves one device, this machine's own or one behind TVM's RPC, until its requests end. What
crashes here, or hangs, costs the trial that it was asked for (`schedules.measure`).
"""

from __future__ import annotations

import json
import math
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import tvm
import tvm_ffi
from tvm import IRModule, ir, s_tir, tirx

from schedules.attention_space import scratch, typical_past
from schedules.host_memory import host_memory_pipeline
from schedules.race import race

ENTRY = "main"
_ERROR_CHARACTERS = 400
_ROUNDS = 5  # of two kernels in turns


class TrialDevice:
    """A device and how a compiled kernel gets there."""

    def __init__(self, session: Any | None, device: Any, sync: Callable[[], None]) -> None:
        """`session`: TVM's RPC session, None for this process."""
        self.session = session
        self.device = device
        self.sync = sync

    def load(self, mod: IRModule, target: tvm.target.Target) -> tvm.runtime.Module:
        """Build `mod`, ready to be called on the device."""
        built = tvm.compile(mod, target=target, tir_pipeline=host_memory_pipeline())
        if self.session is None:
            return built.jit()
        # A folder for each, since what is told to remove a library removes its folder.
        folder = Path(tempfile.mkdtemp(prefix="hetero_trial_"))
        try:
            library = folder / f"trial_{os.getpid()}_{time.monotonic_ns()}.so"
            built.export_library(str(library))
            self.session.upload(str(library))
            return self.session.load_module(library.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def is_there(self) -> bool:
        """Whether the connection still stands; this process's own device is always there."""
        if self.session is None:
            return True
        try:
            return bool(self.device.exist)
        except Exception:  # noqa: BLE001  (a broken connection has many errors)
            return False

    def tensor(self, array: np.ndarray) -> tvm.runtime.Tensor:
        """`array`, on the device."""
        return tvm.runtime.tensor(array, self.device)


def parameters(func: tirx.PrimFunc) -> list[tuple[tuple[int, ...], str]]:
    """Shape and dtype of every parameter."""
    found = []
    for param in func.params:
        kind = param.ty
        found.append((tuple(int(n) for n in kind.shape), str(kind.dtype)))
    return found


def written(func: tirx.PrimFunc) -> list[int]:
    """Which parameters are the function's results: it writes them, and not as scratch."""
    stored: set[str] = set()

    def visit(store: Any) -> None:
        stored.add(store.buffer.name)

    tvm_ffi.structural_walk(func.body, (tirx.BufferStore, visit))
    own = scratch(func)
    return [
        place
        for place, param in enumerate(func.params)
        if param.name in stored and place not in own
    ]


def plain(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` as a trial has it: called as trials are, without what only a build wants to know."""
    func = func.with_attr("global_symbol", ENTRY)
    for attr in [str(name) for name in func.attrs.keys() if str(name).startswith("hetero.")]:
        func = func.without_attr(attr)
    return func


def scheduled_hash(sch: s_tir.Schedule) -> str:
    """Of the kernel that a schedule makes, whatever it is called."""
    return hash_of(plain(entry_of(sch.mod)))


def hash_of(func: tirx.PrimFunc) -> str:
    """Structural hash, as text."""
    return f"{tvm_ffi.structural_hash(func) & ((1 << 64) - 1):016x}"


def trial_module(sch: s_tir.Schedule) -> IRModule:
    """What a schedule makes, ready to be built alone."""
    return IRModule({ENTRY: plain(entry_of(sch.mod))})


def entry_of(mod: IRModule) -> tirx.PrimFunc:
    """The one function of a trial's module."""
    (func,) = (f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc))
    return func


class Server:
    """Answers requests about one device."""

    def __init__(self, device: TrialDevice, target: tvm.target.Target) -> None:
        self.device = device
        self.target = target
        self._rivals: dict[str, Callable[..., list[float]]] = {}  # by path
        self._arrays: dict[tuple, tvm.runtime.Tensor] = {}

    def hello(self) -> dict[str, Any]:
        """What the device is."""
        about = self.device.device
        return {"device": str(about.device_name), "driver": str(about.driver_version)}

    def time(
        self, path: str, at_least_s: float, slow_s: float | None, beside: str | None
    ) -> dict[str, Any]:
        """Seconds of a kernel: some runs, or one where it is far slower than `slow_s`.

        With `beside`, a module that is not slow, the two run in turns: on a machine that also does
        other work only the ratio means anything.
        """
        run = self._run(path)
        run(1)
        (once,) = run(1)
        if beside is None:
            rival = None
        elif beside in self._rivals:
            rival = self._rivals[beside]
        else:
            rival = self._rivals[beside] = self._run(beside)
            rival(1)
        if slow_s is not None and once > 3 * slow_s:
            return {"seconds": [once], "beside": rival(1) if rival else []}
        number = max(1, min(200, math.ceil(at_least_s / _ROUNDS / max(once, 1e-7))))
        seconds, others = [], []
        for _ in range(_ROUNDS):
            seconds += run(number)
            others += rival(number) if rival else []
        return {"seconds": seconds, "beside": others}

    def race(self, paths: Sequence[str], default: str, most_s: float) -> dict[str, Any]:
        """Kernels in pairs with `default`: what `schedules.race` says of each."""
        runs = [self._run(path) for path in [*paths, default]]
        for run in runs:
            run(1)
        *ours, theirs = (lambda number, run=run: run(number)[0] for run in runs)
        return {"raced": race(ours, theirs, most_s=most_s)}

    def outputs(self, path: str, inputs: str, result: str) -> dict[str, Any]:
        """Run once on the arrays of the file `inputs`; what it wrote goes to the file `result`.

        Whatever the kernel does not write stays a number that no kernel means.
        """
        mod, func = self._read(path)
        with np.load(inputs) as arrays:
            given = [self.device.tensor(arrays[f"a{n}"]) for n in range(len(func.params))]
        self.device.load(mod, self.target)[ENTRY](*given)
        self.device.sync()
        np.savez(result, **{f"a{n}": given[n].numpy() for n in written(func)})
        return {}

    def _read(self, path: str) -> tuple[IRModule, tirx.PrimFunc]:
        mod = ir.load_json(Path(path).read_text())
        return mod, entry_of(mod)

    def _run(self, path: str) -> Callable[..., list[float]]:
        mod, func = self._read(path)
        set_to = typical_past(func)
        arguments = [
            self._array(n, *about, set_to.get(n)) for n, about in enumerate(parameters(func))
        ]
        module = self.device.load(mod, self.target)

        def run(number: int, repeat: int = 1) -> list[float]:
            timed = module.time_evaluator(ENTRY, self.device.device, number=number, repeat=repeat)
            return [float(second) for second in timed(*arguments).results]

        return run

    def _array(
        self, place: int, shape: tuple[int, ...], dtype: str, value: int | None
    ) -> tvm.runtime.Tensor:
        key = (place, shape, dtype, value)
        if key not in self._arrays:
            if len(self._arrays) > 64:
                self._arrays.clear()
            array = random_array(np.random.default_rng(place), shape, dtype)
            self._arrays[key] = self.device.tensor(
                array if value is None else np.full(shape, value, dtype)
            )
        return self._arrays[key]


def random_array(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Standard normal floats; integers that are indices of anything with two elements.

    But uint32 is any bits: kernels take such words apart.
    """
    if dtype == "uint32":
        return random.integers(0, 1 << 32, shape, dtype=np.uint32)
    if dtype.startswith("float"):
        return random.standard_normal(shape, dtype=np.float32).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def serve(server: Server, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until they end; then, or when the asker dies, the process is to end."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in requests:
            lines.put(line)
        os._exit(0)  # nobody asks any more; a kernel that hangs must not keep us

    threading.Thread(target=read, daemon=True).start()
    while True:
        request = json.loads(lines.get())
        try:
            answer = getattr(server, request.pop("do"))(**request)
        except Exception as error:  # noqa: BLE001  (whatever a trial does is an answer about it)
            answer = {"error": f"{type(error).__name__}: {_short(str(error))}"}
            if server.device is not None and not server.device.is_there():
                answer["lost"] = True
        print(json.dumps(answer), file=answers, flush=True)


def _short(message: str) -> str:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-_ERROR_CHARACTERS:]
