"""A simulated run as a trace that chrome://tracing and ui.perfetto.dev open.

Trace Event Format: one process per mode, one thread per device. Work is a complete event (`X`,
timestamps and durations in µs); a wait that crosses devices is a flow (`s` to `f`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from hetero_tvm.simulator import Run

THREADS = {"cpu": 1, "gpu": 2, "npu": 3}
Event = dict[str, Any]


def trace(runs: Mapping[str, Mapping[str, Run]], title: str) -> dict[str, Any]:
    """The document: mode -> phase -> run, phases one after the other.

    Args:
        runs: what happened.
        title: of what; stands in every process's name.
    """
    events: list[Event] = []
    flows = itertools.count(1)
    for pid, (mode, phases) in enumerate(runs.items(), 1):
        events += _names(pid, f"{mode}: {title} (simulated)")
        offset = 0.0
        for phase, run in phases.items():
            events += _spans(run, pid, phase, offset)
            events += _flows(run, pid, offset, flows)
            offset += run.total_us
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"provenance": "simulated"},
    }


def _names(pid: int, process: str) -> list[Event]:
    def named(what: str, tid: int, **args: Any) -> Event:
        return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args}

    events = [
        named("process_name", 0, name=process),
        named("process_sort_index", 0, sort_index=pid),
    ]
    for device, tid in THREADS.items():
        events.append(named("thread_name", tid, name=device))
        events.append(named("thread_sort_index", tid, sort_index=tid))
    return events


def _spans(run: Run, pid: int, phase: str, offset: float) -> Iterable[Event]:
    for span in run.spans:
        yield {
            "ph": "X",
            "name": span.name,
            "cat": f"{phase},{span.kind}",
            "pid": pid,
            "tid": THREADS[span.device],
            "ts": offset + span.start_us,
            "dur": span.end_us - span.start_us,
            "args": {"phase": phase, "kind": span.kind},
        }


def _flows(run: Run, pid: int, offset: float, numbers: Iterable[int]) -> Iterable[Event]:
    for signal, number in zip(run.signals, numbers, strict=False):
        common = {"cat": "wait", "name": f"{signal.target} waits for {signal.source}", "id": number}
        yield {
            **common,
            "ph": "s",
            "pid": pid,
            "tid": THREADS[signal.source],
            "ts": offset + signal.source_us,
        }
        yield {
            **common,
            "ph": "f",
            "bp": "e",
            "pid": pid,
            "tid": THREADS[signal.target],
            "ts": offset + signal.target_us,
        }
