"""Discrete events: a planned program on a model of the SoC, one event after the other.

Nothing is computed; time passes. Where the planner adds up two clocks, this engine has

- a host thread that takes the program's steps in order: a kernel is submitted in `launch_us`, and a
  wait blocks everything behind it in the program;
- a GPU with an in-order queue: a kernel that finds it drained begins `drained_us` later;
- an NPU with a queue of jobs, whose worker waits for the GPU by itself, so the host goes on; each
  region begins with `region_us` of submission;
- one memory: work runs at its own speed until the two devices together ask for more than
  `two_devices_gbps`. Then the one that asks for less than half gets what it asks for, the other
  one the rest. Speeds change at every event;
- a renderer, if asked for: a frame at every refresh, in the GPU's queue behind what lies there.

The same steps on the same machine give the same times, always.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

_EPSILON = 1e-6  # µs; two events nearer than this are one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """What the engine needs to know of a SoC; µs and 1e9 bytes a second."""

    two_devices_gbps: float
    launch_us: float  # host time of one kernel's submission
    drained_us: float  # until a kernel begins that finds the GPU's queue drained
    region_us: float  # submission of one NPU region
    seen_us: Mapping[str, float]  # device -> from its work's end until a waiter knows
    # device -> share of its speed while another one works, where they share their cores
    both_rate: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """A piece of work of one device."""

    name: str
    device: str  # "cpu" is the host thread itself
    us: float  # alone on the SoC
    nbytes: float = 0.0  # from and to memory
    opens_region: bool = False  # NPU: the first of a region
    after_gpu: bool = False  # NPU: its worker first waits for all that the GPU was given before
    before_late: bool = False  # NPU: but not for what is `late` and was given last
    late: bool = False  # GPU: no NPU work that is `before_late` waits for it


@dataclasses.dataclass(frozen=True)
class Wait:
    """The host waits for all that `on` was given before."""

    on: str


Step = Work | Wait


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renderer:
    """Somebody else's frames on the same GPU; their memory traffic is unknown and not counted."""

    frames_per_second: float
    frame_us: float  # of GPU time per frame


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of time on one device; `kind` is work, submit, wait or frame."""

    device: str
    kind: str
    name: str
    start_us: float
    end_us: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signal:
    """One device's end that another one's start waited for."""

    source: str
    source_us: float
    target: str
    target_us: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frames:
    """What became of the renderer's frames while the program ran."""

    count: int
    missed: int  # not ready when the next one was due
    mean_us: float  # from due to ready
    worst_us: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A program's run, from the first step to the last."""

    total_us: float
    busy_us: Mapping[str, float]  # device -> time at work, renderer's frames not counted
    waits: int  # by the host and by the NPU's worker
    waited_us: float  # that they lasted
    nbytes: float  # from and to memory
    spans: tuple[Span, ...]
    signals: tuple[Signal, ...]
    frames: Frames | None = None


def simulate(
    steps: Sequence[Step],
    machine: Machine,
    *,
    renderer: Renderer | None = None,
    stretch_us: float | None = None,
) -> Run:
    """Run `steps` in the order of the program.

    Args:
        steps: what the host does; see `Step`.
        machine: the SoC.
        renderer: frames that use the GPU too.
        stretch_us: the most work of ours that may lie in the GPU's queue at any time, so that no
            frame waits longer; None: no bound.
    """
    return _Engine(steps, machine, renderer, stretch_us).run()


@dataclasses.dataclass
class _Task:
    """Work that was given to a device."""

    work: Work
    reach_us: float  # not before
    after: int = 0  # works of the GPU that must have ended
    frame: bool = False
    start_us: float = 0.0
    lead_us: float = 0.0  # of submission, still to go
    left_us: float = 0.0  # of work at full speed, still to go


class _Engine:
    def __init__(
        self,
        steps: Sequence[Step],
        machine: Machine,
        renderer: Renderer | None,
        stretch_us: float | None,
    ) -> None:
        self.machine, self.renderer, self.stretch_us = machine, renderer, stretch_us
        self.steps = steps
        self.now = 0.0
        self.at = 0  # the host's next step
        self.host_free_us = 0.0
        self.wait_began_us: float | None = None
        self.queues: dict[str, list[_Task]] = {"gpu": [], "npu": []}
        self.running: dict[str, _Task] = {}
        self.given = {"cpu": 0, "gpu": 0, "npu": 0}
        self.late = 0  # of what the GPU was given, the last that are late
        self.ends: dict[str, list[float]] = {"cpu": [], "gpu": [], "npu": []}
        self.outstanding_us = 0.0  # of ours in the GPU's queue
        self.next_frame_us = 0.0 if renderer is not None else math.inf
        self.frames: list[float] = []
        self.busy_us = {"cpu": 0.0, "gpu": 0.0, "npu": 0.0}
        self.waits, self.waited_us, self.nbytes = 0, 0.0, 0.0
        self.spans: list[Span] = []
        self.signals: list[Signal] = []

    def run(self) -> Run:
        while True:
            self._frame()
            self._host()
            self._start()
            if self._finished():
                break
            speeds = self._speeds()
            upcoming = self._next_event(speeds)
            assert upcoming < math.inf, "nothing can go on: a wait for work that was never given"
            self._advance(upcoming, speeds)
        total = max(self.now, self.host_free_us)
        return Run(
            total_us=total,
            busy_us=self.busy_us,
            waits=self.waits,
            waited_us=self.waited_us,
            nbytes=self.nbytes,
            spans=tuple(sorted(self.spans, key=lambda span: (span.start_us, span.device))),
            signals=tuple(self.signals),
            frames=self._frames() if self.renderer is not None else None,
        )

    def _finished(self) -> bool:
        ended = all(len(self.ends[device]) == count for device, count in self.given.items())
        return self.at == len(self.steps) and ended

    # The host thread.

    def _host(self) -> None:
        """Take every step that can be taken now."""
        while self.at < len(self.steps) and self.host_free_us <= self.now + _EPSILON:
            if "cpu" in self.running:
                return
            step = self.steps[self.at]
            if isinstance(step, Wait):
                if not self._wait(step.on):
                    return
            elif step.device == "gpu":
                if not self._fits(step):
                    return
                self._submit(step)
            else:
                self._give(step)
            self.at += 1

    def _wait(self, on: str) -> bool:
        """Whether the host has seen the end of all that `on` was given."""
        if self.wait_began_us is None:
            self.wait_began_us = self.now
        if len(self.ends[on]) < self.given[on]:
            return False
        begin, self.wait_began_us = self.wait_began_us, None
        self.waits += 1
        if not self.ends[on]:
            return True
        end = self.ends[on][-1]
        seen = max(self.now, end + self.machine.seen_us[on])
        if seen > begin + _EPSILON:
            self._span("cpu", "wait", f"wait for {on}", begin, seen)
        self.waited_us += seen - begin
        self.signals.append(Signal(source=on, source_us=end, target="cpu", target_us=seen))
        self.host_free_us = seen
        return True

    def _fits(self, work: Work) -> bool:
        """Whether the GPU's queue may take `work` without becoming longer than a stretch."""
        if self.stretch_us is None or self.outstanding_us < _EPSILON:
            return True
        return self.outstanding_us + work.us <= self.stretch_us + _EPSILON

    def _submit(self, work: Work) -> None:
        drained = not self.queues["gpu"] and "gpu" not in self.running
        reach = self.now + (self.machine.drained_us if drained else 0.0)
        before = [task.reach_us for task in self.queues["gpu"] if not task.frame]
        self.queues["gpu"].append(_Task(work, max([reach, *before[-1:]])))
        self.given["gpu"] += 1
        self.late = self.late + 1 if work.late else 0
        self.outstanding_us += work.us
        self.host_free_us = self.now + self.machine.launch_us
        if self.machine.launch_us:
            self._span("cpu", "submit", work.name, self.now, self.host_free_us)

    def _give(self, work: Work) -> None:
        """A job for the NPU's worker, or work of the host itself."""
        self.given[work.device] += 1
        before = self.given["gpu"] - (self.late if work.before_late else 0)
        after = before if work.after_gpu else 0
        task = _Task(work, self.now, after)
        if work.device == "npu":
            self.queues["npu"].append(task)
        else:
            self._begin(task)

    # The devices.

    def _frame(self) -> None:
        if self.renderer is not None and self.next_frame_us <= self.now + _EPSILON:
            frame = Work(name="frame", device="gpu", us=self.renderer.frame_us)
            self.queues["gpu"].append(_Task(frame, self.next_frame_us, frame=True))
            self.next_frame_us += 1e6 / self.renderer.frames_per_second

    def _start(self) -> None:
        """Begin what is next on every idle device."""
        for device, queue in self.queues.items():
            task = self._head(device)
            if device in self.running or task is None:
                continue
            if self._ready_us(task) <= self.now + _EPSILON:
                queue.remove(task)
                self._begin(task)

    def _head(self, device: str) -> _Task | None:
        """What the device takes next: in order, the GPU's two users by when they came."""
        queue = self.queues[device]
        return min(queue, key=lambda task: task.reach_us) if queue else None

    def _ready_us(self, task: _Task) -> float:
        """When it may begin, if its device is idle; infinity while that is unknown."""
        if task.after > len(self.ends["gpu"]):
            return math.inf
        if not task.after:
            return task.reach_us
        return max(task.reach_us, self.ends["gpu"][task.after - 1] + self.machine.seen_us["gpu"])

    def _begin(self, task: _Task) -> None:
        device = task.work.device
        task.start_us = self.now
        task.lead_us = self.machine.region_us if task.work.opens_region else 0.0
        task.left_us = task.work.us
        self.running[device] = task
        if task.after:
            end = self.ends["gpu"][task.after - 1]
            idle = max([task.reach_us, *self.ends["npu"][-1:]])
            self.waits += 1
            self.waited_us += max(0.0, self.now - idle)
            self.signals.append(
                Signal(source="gpu", source_us=end, target=device, target_us=self.now)
            )
            if self.now > idle + _EPSILON:
                self._span("npu", "wait", "wait for gpu", idle, self.now)

    def _speeds(self) -> dict[str, float]:
        """Of the work that runs: the share of its speed alone."""
        wants = {  # GB/s that it would move at full speed
            device: task.work.nbytes / task.work.us / 1e3
            for device, task in self.running.items()
            if task.lead_us <= 0 and task.work.us > 0 and not task.frame
        }
        speeds = dict.fromkeys(self.running, 1.0)
        if len(wants) < 2:
            return speeds
        left, users = self.machine.two_devices_gbps, len(wants)
        for device in sorted(wants, key=lambda device: wants[device]):
            gets = min(wants[device], left / users)
            left, users = left - gets, users - 1
            share = gets / wants[device] if wants[device] > 0 else 1.0
            speeds[device] = min(share, self.machine.both_rate.get(device, 1.0))
        return speeds

    def _next_event(self, speeds: Mapping[str, float]) -> float:
        times = [self.next_frame_us]
        if self.host_free_us > self.now + _EPSILON:
            times.append(self.host_free_us)
        for device in self.queues:
            head = self._head(device)
            if device not in self.running and head is not None:
                times.append(self._ready_us(head))
        for device, task in self.running.items():
            left = task.lead_us if task.lead_us > 0 else task.left_us / speeds[device]
            times.append(self.now + left)
        return max(self.now, min(times))

    def _advance(self, upcoming: float, speeds: Mapping[str, float]) -> None:
        passed = upcoming - self.now
        self.now = upcoming
        for device, task in list(self.running.items()):
            if task.lead_us > 0:
                task.lead_us -= passed
                if task.lead_us <= _EPSILON:
                    task.lead_us = 0.0
                    self._span(device, "submit", "submit region", task.start_us, self.now)
                    task.start_us = self.now
            else:
                task.left_us -= passed * speeds[device]
            if task.lead_us <= 0 and task.left_us <= _EPSILON:
                self._end(device, task)

    def _end(self, device: str, task: _Task) -> None:
        del self.running[device]
        kind = "frame" if task.frame else "work"
        self._span(device, kind, task.work.name, task.start_us, self.now)
        if task.frame:
            self.frames.append(self.now - task.reach_us)
            return
        self.busy_us[device] += self.now - task.start_us
        self.nbytes += task.work.nbytes
        self.ends[device].append(self.now)
        if device == "gpu":
            self.outstanding_us -= task.work.us

    def _span(self, device: str, kind: str, name: str, start: float, end: float) -> None:
        self.spans.append(Span(device=device, kind=kind, name=name, start_us=start, end_us=end))

    def _frames(self) -> Frames:
        """Of all frames that were due, those still in the queue with the time until now."""
        assert self.renderer is not None
        open_frames = [
            self.now - task.reach_us
            for task in (*self.queues["gpu"], *self.running.values())
            if task.frame
        ]
        period = 1e6 / self.renderer.frames_per_second
        late = [us for us in open_frames if us > period]
        times = [*self.frames, *late]
        return Frames(
            count=len(times),
            missed=sum(us > period for us in times),
            mean_us=sum(times) / len(times) if times else 0.0,
            worst_us=max(times, default=0.0),
        )
