"""Runs of an artefact, recorded by the runtime: what happened when, on one clock.

    with Recorder(model) as recorder:
        model.call(fed, recorder.function)
    recorder.events

The clock is the one of `time.monotonic_ns` and `time.perf_counter_ns`. GPU kernels have the times
that the driver gives, mapped to it; everything else is stamped by the thread that does it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, Protocol

from hetero_tvm import runtime

Kind = Literal["function", "call", "submit", "kernel", "region", "wait", "copy"]
_DEVICES = ("cpu", "gpu", "npu")  # by the runtime's numbers
_EVENTS_PER_THREAD = 1 << 16
GPU_THREAD = -1


@dataclasses.dataclass(frozen=True)
class Event:
    """One thing that happened.

    `call`: the number of the virtual machine's call that it belongs to, None where it is in none;
    numbers grow and are never used twice.
    """

    kind: Kind
    thread: int  # of the host, from 0; -1 is the GPU
    name: str
    start_ns: int
    end_ns: int
    call: int | None
    detail: int

    @property
    def us(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e3

    @property
    def device(self) -> str:
        """Who does it, or who waits."""
        if self.kind == "wait":
            return self.waiter
        return {"kernel": "gpu", "region": "npu"}.get(self.kind, "cpu")

    @property
    def waiter(self) -> str:
        """Of a wait: the device that needs the other's work."""
        return _DEVICES[self.detail // 4]

    @property
    def waits_for(self) -> str:
        """Of a wait: the device whose work is needed."""
        return _DEVICES[self.detail % 4]


class Instrumented(Protocol):
    """What runs in TVM's virtual machine: a model, or a language model's session."""

    def instrument(self, function: Any | None) -> None: ...  # noqa: D102


class Recorder:
    """Records while it is entered. Only one can be, in a process."""

    def __init__(self, model: Instrumented, events_per_thread: int = _EVENTS_PER_THREAD) -> None:
        self.events: tuple[Event, ...] = ()  # by their beginning, once it is left
        self.lost = 0  # events that newer ones have overwritten
        self._model = model
        self._events_per_thread = events_per_thread

    def __enter__(self) -> Recorder:
        runtime.load()
        _function("trace_start")(self._events_per_thread)
        self._model.instrument(_function("trace_instrument"))
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._model.instrument(None)
        *rows, self.lost = _function("trace_stop")()
        self.events = tuple(sorted(map(_event, rows), key=lambda event: event.start_ns))

    @contextlib.contextmanager
    def function(self, name: str) -> Iterator[None]:
        """One run of one function of the artefact."""
        start_ns = time.monotonic_ns()
        yield
        _function("trace_function")(name, start_ns, time.monotonic_ns())


@dataclasses.dataclass(frozen=True)
class Recording:
    """Runs that were recorded."""

    events: tuple[Event, ...]  # by their beginning
    lost: int  # events that newer ones have overwritten
    bounds: tuple[tuple[int, int], ...]  # start and end of each run, on the events' clock


def record(
    model: Instrumented,
    run: Callable[[Callable[[str], AbstractContextManager[None]]], None],
    count: int,
) -> Recording:
    """Record `count` runs of `model` in this process.

    `run` does one, with its argument around each function of the artefact, and waits for its end.
    """
    bounds = []
    with Recorder(model) as recorder:
        run(recorder.function)  # the first pays for what recording sets up
        for _ in range(count):
            start = time.monotonic_ns()
            run(recorder.function)
            bounds.append((start, time.monotonic_ns()))
    return Recording(recorder.events, recorder.lost, tuple(bounds))


def record_there(call: Callable[[int, int], str], count: int) -> Recording:
    """As `record`, on a device.

    `call`: records there; takes `count` and events for each thread, gives what the runtime's
    `RecordRuns` does.
    """
    found = json.loads(call(count, _EVENTS_PER_THREAD))
    *rows, lost = found["rows"]
    events = sorted(map(_event, rows), key=lambda event: event.start_ns)
    return Recording(tuple(events), lost, tuple((start, end) for start, end in found["bounds"]))


def _function(name: str) -> Any:
    import tvm_ffi

    return tvm_ffi.get_global_func(f"hetero_tvm.{name}")


def _event(row: Any) -> Event:
    kind, thread, name, start_ns, end_ns, call, detail = row
    return Event(
        kind=str(kind),  # type: ignore[arg-type]  # the runtime's names are these
        thread=int(thread),
        name=str(name),
        start_ns=int(start_ns),
        end_ns=int(end_ns),
        call=None if call < 0 else int(call),
        detail=int(detail),
    )
