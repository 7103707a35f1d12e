"""A recording as a trace that chrome://tracing and ui.perfetto.dev open.

Trace Event Format as in `trace`: one process, one thread for each thread of the host, one for the
GPU, one for the NPU. From each submission an arrow leads to the work that it started.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hetero_tvm.profile_summary import Run, calls_by_number
from hetero_tvm.recording import GPU_THREAD, Event
from hetero_tvm.trace import Event as TraceEvent
from relay_passes.calls import Call

_PID = 1
_GPU_TID, _NPU_TID = 1000, 1001  # below the host's threads, as a timeline is read


def recorded_trace(
    runs: Sequence[Run], calls: Mapping[str, Sequence[Call]], title: str, provenance: str
) -> dict[str, Any]:
    """The document, times in µs from the beginning of the first run.

    Args:
        runs: what happened.
        calls: of each function, as the manifest has them: says what a kernel computes.
        title: of what.
        provenance: what the times are, as in "measured".
    """
    origin = runs[0].start_ns
    worker = {e.thread for run in runs for e in run.events if e.kind == "region"}
    events: list[TraceEvent] = []
    threads: dict[int, str] = {}
    for number, run in enumerate(runs):
        table = [call for function in run.functions for call in calls[function]]
        about = {event.call: call for event, call in zip(calls_by_number(run), table, strict=False)}
        last_end = run.start_ns
        works: dict[int | None, TraceEvent] = {}
        submits: list[TraceEvent] = []
        for event in run.events:
            tid = _tid(event, worker, threads)
            start, end = event.start_ns, event.end_ns
            if event.thread == GPU_THREAD:
                # One queue works on one thing at a time; two clocks may disagree by a little.
                start = max(start, last_end)
                end = last_end = max(start, end)
            span = {
                "ph": "X",
                "name": _name(event),
                "cat": event.kind,
                "pid": _PID,
                "tid": tid,
                "ts": (start - origin) / 1e3,
                "dur": (end - start) / 1e3,
                "args": _args(event, about.get(event.call), number),
            }
            events.append(span)
            if event.kind == "submit":
                submits.append(span)
            elif event.kind in ("kernel", "region"):
                works.setdefault(event.call, span)
        events += _arrows(submits, works)
    return {
        "traceEvents": [*_names(title, threads), *events],
        "displayTimeUnit": "ms",
        "otherData": {"provenance": provenance, "clock": "CLOCK_MONOTONIC of the host"},
    }


def _tid(event: Event, worker: set[int], threads: dict[int, str]) -> int:
    if event.thread == GPU_THREAD:
        threads[_GPU_TID] = "GPU (driver's times)"
        return _GPU_TID
    if event.thread in worker:
        threads[_NPU_TID] = "NPU (its worker)"
        return _NPU_TID
    threads[event.thread + 1] = f"host thread {event.thread}"
    return event.thread + 1


def _name(event: Event) -> str:
    if event.kind == "wait":
        return f"{event.waiter.upper()} waits for {event.waits_for.upper()}"
    return f"submit {event.name}" if event.kind == "submit" else event.name


def _args(event: Event, call: Call | None, run: int) -> dict[str, Any]:
    args: dict[str, Any] = {"run": run, "kind": event.kind}
    if event.kind == "copy":
        args["bytes"] = event.detail
    if call is not None:
        args |= {"operators": list(call.operators), "call": event.call}
        if call.serves:
            args["for"] = call.serves
        if event.kind in ("kernel", "region") and event.us > 0:
            args |= {"macs": call.macs, "bytes": call.bytes}
            args["GFLOP/s"] = round(2 * call.macs / event.us / 1e3, 3)
            args["GB/s"] = round(call.bytes / event.us / 1e3, 3)
    return args


def _arrows(
    submits: Iterable[TraceEvent], works: Mapping[int | None, TraceEvent]
) -> Iterable[TraceEvent]:
    for submit in submits:
        call = submit["args"].get("call")
        work = works.get(call)
        if work is None or work["ts"] < submit["ts"]:
            continue
        common = {"cat": "submit", "name": "starts", "id": call, "pid": _PID}
        yield {**common, "ph": "s", "tid": submit["tid"], "ts": submit["ts"]}
        yield {**common, "ph": "f", "bp": "e", "tid": work["tid"], "ts": work["ts"]}


def _names(title: str, threads: Mapping[int, str]) -> Iterable[TraceEvent]:
    yield {"ph": "M", "name": "process_name", "pid": _PID, "tid": 0, "args": {"name": title}}
    for tid, name in sorted(threads.items()):
        common = {"ph": "M", "pid": _PID, "tid": tid}
        yield {**common, "name": "thread_name", "args": {"name": name}}
        yield {**common, "name": "thread_sort_index", "args": {"sort_index": tid}}
