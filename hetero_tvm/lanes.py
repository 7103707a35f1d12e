"""One run as lanes: what CPU, GPU and NPU do, copies, and who waits for whom; in µs from its start.

The same form for a run that was recorded and for one that was simulated, so that a report shows
them one below the other. An entry is [start, end, what, operator, call]: an operator of the plan
where it is known, and the number of the call in the run's own list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hetero_tvm.profile_summary import Run, calls_by_number
from hetero_tvm.simulator import Run as SimulatedRun
from relay_passes.calls import Call

LANES = ("cpu", "gpu", "npu", "copies", "waits")
Entry = tuple[float, float, str, str | None, int | None]
_FIELDS = 5
_DIGITS = 3  # of a µs: events of the GPU have nanoseconds


def recorded_lanes(
    runs: Sequence[Run], calls: Mapping[str, Sequence[Call]], provenance: str
) -> dict[str, Any]:
    """The run of `runs` that took the median time, or was next to it.

    Args:
        runs: what happened.
        calls: of each function, as the manifest has them.
        provenance: what the times are, as in "measured".
    """
    run = sorted(runs, key=lambda one: one.us)[len(runs) // 2]
    table = [call for function in run.functions for call in calls[function]]
    made = calls_by_number(run)
    index = {event.call: number for number, event in enumerate(made)}
    given = {event.call for event in run.events if event.kind == "submit"}
    lanes: dict[str, list[Entry]] = {lane: [] for lane in LANES}
    for event in run.events:
        number = index.get(event.call)
        call = table[number] if number is not None and number < len(table) else None
        own = {"kernel": "gpu", "region": "npu", "copy": "copies", "wait": "waits"}.get(event.kind)
        what = event.name
        if event.kind == "wait":
            what = f"{event.waiter.upper()} waits for {event.waits_for.upper()}"
        elif event.kind == "submit":
            own, what = "cpu", f"submit {event.name}"
        elif event.kind == "call" and event.call not in given:
            own = "cpu"
        if own is None:
            continue
        about = call.operators[-1] if call is not None and call.operators else None
        start, end = ((at - run.start_ns) / 1e3 for at in (event.start_ns, event.end_ns))
        lanes[own].append(_entry(start, end, what, about, number))
    return {"us": round(run.us, _DIGITS), "provenance": provenance, "lanes": lanes}


def simulated_lanes(run: SimulatedRun) -> dict[str, Any]:
    """A run of the simulator; its names are operators of the plan."""
    lanes: dict[str, list[Entry]] = {lane: [] for lane in LANES}
    for span in run.spans:
        operator = span.name if span.kind == "work" else None
        what = span.name
        if span.kind == "wait":
            on = span.name.removeprefix("wait for ")
            what = f"{span.device.upper()} waits for {on.upper()}"
        elif span.kind == "submit" and span.device == "cpu":
            operator, what = span.name, f"submit {span.name}"
        lane = "waits" if span.kind == "wait" else span.device
        lanes[lane].append(_entry(span.start_us, span.end_us, what, operator, None))
    return {"us": round(run.total_us, _DIGITS), "provenance": "simulated", "lanes": lanes}


def is_lanes(value: Any) -> bool:
    """Whether a stranger's data has the form that a report draws."""
    if not isinstance(value, dict) or not isinstance(value.get("us"), int | float):
        return False
    lanes = value.get("lanes")
    if not isinstance(value.get("provenance"), str) or not isinstance(lanes, dict):
        return False
    entries = [entry for lane in LANES for entry in lanes.get(lane, [None])]
    return all(
        isinstance(entry, list | tuple)
        and len(entry) == _FIELDS
        and all(isinstance(at, int | float) for at in entry[:2])
        and isinstance(entry[2], str)
        and (entry[3] is None or isinstance(entry[3], str))
        and (entry[4] is None or isinstance(entry[4], int))
        for entry in entries
    )


def _entry(start: float, end: float, what: str, operator: str | None, call: int | None) -> Entry:
    return round(start, _DIGITS), round(end, _DIGITS), what, operator, call
