"""What a recording says: time of every call and operator, overlap, and why devices were idle.

All of it is measured on the runs that were recorded, but for one thing: a call that computes
several operators is timed as one, and its time is shared out among them as the plan predicted
their times; such operators are marked `apportioned`.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hetero_tvm.errors import ArtefactUnreadable
from hetero_tvm.recording import Event
from relay_passes.calls import Call, parts_of
from relay_passes.plan import Plan
from target_specs.spec import SocSpec

CONVOLUTIONS = frozenset(
    f"relax.nn.conv{d}d{kind}" for d in (1, 2, 3) for kind in ("", "_transpose")
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One recorded run: when, what ran, and the functions of the artefact that it called."""

    start_ns: int
    end_ns: int
    events: tuple[Event, ...]
    functions: tuple[str, ...]

    @property
    def us(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e3


@dataclasses.dataclass(frozen=True, kw_only=True)
class CallTime:
    """One call, over all runs."""

    call: Call
    us: float  # median over the runs, of the device's work alone
    share: float  # of the time that its device was busy
    gflops: float | None  # achieved; None where nothing is multiplied
    gbps: float
    of_limit: float | None  # the nearer of the spec's two limits; None without a spec
    limited_by: str | None  # "compute" or "memory": which limit that is


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """One operator of the plan."""

    name: str
    op: str
    device: str
    us: float
    share: float  # of all devices' busy time
    apportioned: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """All of it; times are per run, in µs."""

    run_us: float
    busy_us: Mapping[str, float]
    overlap_us: float  # GPU and NPU at work at once
    idle_us: Mapping[str, Mapping[str, float]]  # device -> cause -> time
    waits_us: Mapping[str, float]  # "cpu for gpu" -> time
    copied_bytes: float
    calls: tuple[CallTime, ...]
    operators: tuple[OperatorTime, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)


def runs_of(events: Sequence[Event], bounds: Sequence[tuple[int, int]]) -> list[Run]:
    """The events of each run; `bounds`: its beginning and end, in nanoseconds."""
    runs = []
    for start, end in bounds:
        inside = tuple(event for event in events if start <= event.start_ns < end)
        functions = tuple(event.name for event in inside if event.kind == "function")
        runs.append(Run(start, end, inside, functions))
    return runs


def summarise(
    runs: Sequence[Run],
    calls: Mapping[str, Sequence[Call]],
    plan: Plan,
    spec: SocSpec | None,
    dtype: str,
) -> Summary:
    """Medians over `runs`, which all called the same functions.

    Args:
        runs: recorded, at least one.
        calls: of each function, as the manifest has them.
        plan: by which they were made.
        spec: the target, for its limits; None: not known here.
        dtype: storage type of the artefact.

    Raises:
        BadInput: a run's calls are not those of the manifest.
    """
    table = [call for function in runs[0].functions for call in calls[function]]
    times = np.array([_call_times(run, table) for run in runs])  # [runs, calls], µs
    medians = np.median(times, axis=0)
    busy = {
        device: statistics.median(_length(run, device) for run in runs)
        for device in ("cpu", "gpu", "npu")
    }
    rows = []
    for call, us in zip(table, medians, strict=True):
        gflops = 2 * call.macs / us / 1e3 if call.macs and us > 0 else None
        gbps = call.bytes / us / 1e3 if us > 0 else 0.0
        limit, by = _of_limit(call, gflops, gbps, plan, spec, dtype)
        on_device = sum(m for c, m in zip(table, medians, strict=True) if c.device == call.device)
        rows.append(
            CallTime(
                call=call,
                us=float(us),
                share=float(us / on_device) if on_device else 0.0,
                gflops=gflops,
                gbps=gbps,
                of_limit=limit,
                limited_by=by,
            )
        )
    return Summary(
        run_us=statistics.median(run.us for run in runs),
        busy_us=busy,
        overlap_us=statistics.median(_overlap(run) for run in runs),
        idle_us={device: _medians(_idle(run, device) for run in runs) for device in ("gpu", "npu")},
        waits_us=_medians(_waits(run) for run in runs),
        copied_bytes=statistics.mean(
            sum(event.detail for event in run.events if event.kind == "copy") for run in runs
        ),
        calls=tuple(rows),
        operators=_operators(rows, plan),
    )


def calls_by_number(run: Run) -> list[Event]:
    """The virtual machine's calls of a run in order."""
    found = [event for event in run.events if event.kind == "call"]
    return sorted(found, key=lambda event: event.call or 0)


def _call_times(run: Run, table: Sequence[Call]) -> list[float]:
    """Time of the device's work for each entry of the table."""
    made = calls_by_number(run)
    if [event.name for event in made] != [call.symbol for call in table]:
        raise ArtefactUnreadable(
            "the artefact's own list of its calls is not what it does; build it again"
        )
    worked: dict[int | None, float] = defaultdict(float)
    for event in run.events:
        if event.kind in ("kernel", "region"):
            worked[event.call] += event.us
    return [
        event.us if call.device == "cpu" else worked[event.call]
        for event, call in zip(made, table, strict=True)
    ]


# --- operators -----------------------------------------------------------------------------------


def _operators(rows: Sequence[CallTime], plan: Plan) -> tuple[OperatorTime, ...]:
    """The calls' times by operator; parts of a split operator are one row for each device."""
    ops = {op.name: op for op in plan.ops}
    parts = {part.name: (op.name, part.device, part.us) for op in plan.ops for part in parts_of(op)}
    found: dict[tuple[str, str], list[tuple[float, bool]]] = defaultdict(list)
    for row in rows:
        device = row.call.device
        computed = [
            parts.get(name) or (name, device, ops[name].cost_us.get(device, 0.0))
            for name in row.call.operators
            if name in parts or name in ops
        ]
        total = sum(us for *_, us in computed)
        several = sum(us > 0 for *_, us in computed) > 1
        for name, on, us in computed:
            share = us / total if total else 1 / len(computed)
            found[name, on].append((row.us * share, several))
    total_us = sum(us for shares in found.values() for us, _ in shares) or 1.0
    return tuple(
        OperatorTime(
            name=name,
            op=ops[name].op,
            device=device,
            us=sum(us for us, _ in shares),
            share=sum(us for us, _ in shares) / total_us,
            apportioned=any(shared for _, shared in shares),
        )
        for (name, device), shares in found.items()
    )


def _of_limit(
    call: Call,
    gflops: float | None,
    gbps: float,
    plan: Plan,
    spec: SocSpec | None,
    dtype: str,
) -> tuple[float | None, str | None]:
    """How near the call comes to the nearer of the target's limits, and which that is."""
    if spec is None or call.device == "cpu":
        return None, None
    memory = gbps / spec.memory.one_device_gbps
    if gflops is None:
        return memory, "memory"
    kinds = {op.name: op.op for op in plan.ops}
    kinds |= {part.name: op.op for op in plan.ops for part in parts_of(op)}
    is_conv = any(kinds.get(name) in CONVOLUTIONS for name in call.operators)
    unit = spec.gpu if call.device == "gpu" else spec.npu
    rate = unit.conv_gflops if is_conv else unit.matmul_gflops
    if call.device == "gpu" and dtype == "float32":
        rate *= spec.gpu.float32_rate
    compute = gflops / rate
    return (compute, "compute") if compute >= memory else (memory, "memory")


# --- intervals -----------------------------------------------------------------------------------

Interval = tuple[int, int]


def _work(run: Run, device: str) -> list[Interval]:
    """When a device computed. The CPU: its own kernels, not those that it submits."""
    if device == "cpu":
        submitted = {event.call for event in run.events if event.kind == "submit"}
        return [
            (event.start_ns, event.end_ns)
            for event in run.events
            if event.kind == "call" and event.call not in submitted
        ]
    kind = {"gpu": "kernel", "npu": "region"}[device]
    return [(event.start_ns, event.end_ns) for event in run.events if event.kind == kind]


def _length(run: Run, device: str) -> float:
    edges = _edges(run, _work(run, device))
    return _sum(edges, _covered(edges, _work(run, device)))


def _overlap(run: Run) -> float:
    gpu, npu = _work(run, "gpu"), _work(run, "npu")
    edges = _edges(run, gpu, npu)
    return _sum(edges, _covered(edges, gpu) & _covered(edges, npu))


def _idle(run: Run, device: str) -> dict[str, float]:
    """Why a device did nothing: each moment has the first cause of the list that holds."""
    other = {"gpu": "npu", "npu": "gpu"}[device]
    work = _work(run, device)
    if not work:
        return {"never used": run.us}
    waits = [e for e in run.events if e.kind == "wait" and e.waits_for == other]
    own = [(e.start_ns, e.end_ns) for e in waits if e.waiter == device]
    hosts = [(e.start_ns, e.end_ns) for e in waits if e.waiter == "cpu"]
    queued = _queued(run, device)
    host = _work(run, "cpu")
    edges = _edges(run, work, own, hosts, queued, host)
    left = ~_covered(edges, work)
    found = {}
    for cause, intervals in {
        f"waits for the {other.upper()}": own,
        f"the host waits for the {other.upper()}": hosts,
        "given work, not started yet": queued,
        "the CPU computes": host,
    }.items():
        here = left & _covered(edges, intervals)
        found[cause] = _sum(edges, here)
        left &= ~here
    after = np.array([start >= max(end for _, end in work) for start in edges[:-1]])
    found["done with its part"] = _sum(edges, left & after)
    found["the host has given it nothing"] = _sum(edges, left & ~after)
    return {cause: us for cause, us in found.items() if us > 0}


def _queued(run: Run, device: str) -> list[Interval]:
    """From the end of each submission to the beginning of its work."""
    kind = {"gpu": "kernel", "npu": "region"}[device]
    submitted = {event.call: event.end_ns for event in run.events if event.kind == "submit"}
    return [
        (submitted[event.call], event.start_ns)
        for event in run.events
        if event.kind == kind and submitted.get(event.call, event.start_ns) < event.start_ns
    ]


def _waits(run: Run) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for event in run.events:
        if event.kind == "wait":
            found[f"{event.waiter} for {event.waits_for}"] += event.us
    return dict(found)


def _edges(run: Run, *groups: Iterable[Interval]) -> np.ndarray:
    points = [point for group in groups for interval in group for point in interval]
    inside = [point for point in points if run.start_ns < point < run.end_ns]
    return np.unique(np.array([run.start_ns, *inside, run.end_ns], dtype=np.int64))


def _covered(edges: np.ndarray, intervals: Sequence[Interval]) -> np.ndarray:
    """Of each stretch between two edges: whether one of the intervals covers it."""
    depth = np.zeros(len(edges) + 1, dtype=np.int64)
    for start, end in intervals:
        first, last = np.searchsorted(edges, [start, end])
        depth[first] += 1
        depth[max(first, last)] -= 1
    return np.cumsum(depth)[: len(edges) - 1] > 0


def _sum(edges: np.ndarray, chosen: np.ndarray) -> float:
    return float(np.diff(edges)[chosen].sum()) / 1e3


def _medians(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    each = list(rows)
    names = dict.fromkeys(name for row in each for name in row)
    return {name: statistics.median(row.get(name, 0.0) for row in each) for name in names}
