"""Records of tuning: what they say, how they are put together, and the line that each one is.

A line is `{"sum": crc32 of the rest, …}`. Records say which kernel they are of (`key`), on which
device with which driver, under which limits of a target. Types:

    kernel   name, parameters, and the shape of its family, by which neighbours are found
    default  seconds of the untuned kernel, and if it is right
    trial    a sketch and its choices: seconds, or what went wrong
    verdict  trial's choices again: good, or quarantined and why; the hash of the scheduled kernel
    race     seconds of a schedule and of the default, run in pairs; the gain, and what it lies
             between (`schedules.race`). Of earlier versions: seconds alone
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from tvm import tirx

from schedules.record_fields import TYPES, is_record
from schedules.record_fields import Record as Record
from schedules.trials import hash_of, parameters, plain

FORMAT = 1
HEADER = "hetero-tvm tuning records"
WORTH = 1.01  # default's time over a schedule's, to be worth leaving the default


@dataclasses.dataclass(frozen=True, kw_only=True)
class Where:
    """What a measurement is good for."""

    device: str
    driver: str
    limits: str  # of the target: `search_space.Limits.text`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """A sketch and its choices, by name in alphabetical order."""

    sketch: str
    decisions: tuple[tuple[str, tuple[int, ...]], ...]

    @staticmethod
    def of(sketch: str, decisions: Mapping[str, Sequence[int]]) -> Choice:
        """From what `search_space.Space.decisions` gives."""
        items = ((name, tuple(int(n) for n in part)) for name, part in decisions.items())
        return Choice(sketch=sketch, decisions=tuple(sorted(items)))

    @property
    def as_dict(self) -> dict[str, list[int]]:
        """The choices by name."""
        return {name: list(part) for name, part in self.decisions}

    def differences(self, other: Choice) -> int:
        """How many choices are not the same."""
        return len(set(self.decisions) ^ set(other.decisions)) // 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Race:
    """A schedule beside the default."""

    seconds: float
    default: float
    gain: float  # default's time over its time
    low: float | None  # what the gain lies between; None: nobody said
    high: float | None


@dataclasses.dataclass
class Standing:
    """All that is known of one kernel in one place."""

    key: str
    where: Where
    default_s: float | None = None
    default_good: bool = True
    default_reason: str = ""
    trials: list[tuple[Choice, float]] = dataclasses.field(default_factory=list)  # in order
    failed: int = 0
    verdicts: dict[Choice, tuple[bool, str, str]] = dataclasses.field(default_factory=dict)
    races: dict[Choice, Race] = dataclasses.field(default_factory=dict)

    def quarantined(self) -> list[tuple[Choice, str]]:
        """What is wrong here, and how."""
        return [(choice, why) for choice, (good, why, _) in self.verdicts.items() if not good]

    def best(self) -> tuple[Choice, float, str] | None:
        """The fastest that is verified: its choices, seconds, and the scheduled kernel's hash.

        By the races against the default, where there were any: a trial is one glance at a machine
        that may have been busy. Of two the one whose gain is at least higher.
        """
        good = self._good()
        if not good:
            return None
        raced = [row for row in good if row[2] in self.races]
        if raced:
            seconds, _, choice = max(raced, key=lambda row: _least(self.races[row[2]]))
        else:
            seconds, _, choice = min(good)
        return choice, seconds, self.verdicts[choice][2]

    @property
    def fastest_s(self) -> float:
        """Seconds of the fastest trial that is verified; infinite without one."""
        return min((seconds for seconds, _, _ in self._good()), default=math.inf)

    def _good(self) -> list[tuple[float, int, Choice]]:
        return [
            (seconds, number, choice)
            for number, (choice, seconds) in enumerate(self.trials)
            if self.verdicts.get(choice, (False, "", ""))[0]
        ]

    @property
    def race(self) -> Race | None:
        """The best's race against the default, where there was one."""
        best = self.best()
        return None if best is None else self.races.get(best[0])

    @property
    def gain(self) -> float | None:
        """Default's time over the best's; from the race where there was one."""
        best, race = self.best(), self.race
        if race is not None:
            return race.gain
        return None if best is None or self.default_s is None else self.default_s / best[1]

    @property
    def is_better(self) -> bool:
        """Whether the best is worth leaving the default: surely faster, or the default is wrong."""
        if self.best() is None or not self.default_good:
            return self.best() is not None
        race, gain = self.race, self.gain
        if race is not None and race.low is not None and race.low <= 1:
            return False
        return gain is not None and gain >= WORTH


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """What a kernel is, beyond its hash."""

    key: str
    name: str
    family: str
    parameters: tuple[tuple[tuple[int, ...], str], ...]

    @property
    def shapes(self) -> str:
        """For people: `512x512 16x512x32 -> …`."""
        return " ".join("x".join(map(str, shape)) or "1" for shape, _ in self.parameters)


def describe(name: str, func: tirx.PrimFunc) -> Kernel:
    """Key and family of an unscheduled kernel, whatever it is called."""
    func = plain(func)
    # Of two functions with one family only numbers differ.
    text = re.sub(r"\d+", "#", func.script(show_meta=False))
    return Kernel(
        key=hash_of(func),
        name=name,
        family=f"{zlib.crc32(text.encode()):08x}",
        parameters=tuple(parameters(func)),
    )


def record(
    kind: str, key: str, where: Where | None = None, choice: Choice | None = None, **more: Any
) -> Record:
    """A record as it is written."""
    assert kind in TYPES
    made: Record = {"type": kind, "key": key}
    if where is not None:
        made["where"] = dataclasses.asdict(where)
    if choice is not None:
        made["choice"] = {"sketch": choice.sketch, **choice.as_dict}
    return {**made, **more, "at": round(time.time(), 3)}


def kernel_record(kernel: Kernel) -> Record:
    """The record that says what a kernel is."""
    about = [[list(shape), dtype] for shape, dtype in kernel.parameters]
    return record("kernel", kernel.key, name=kernel.name, family=kernel.family, parameters=about)


def add(standing: Standing, entry: Record) -> None:
    """What a record says of its kernel and place, added to what is known of them."""
    kind = entry["type"]
    if kind == "default":
        standing.default_s = entry["seconds"]
        standing.default_good = entry["good"]
        standing.default_reason = entry["reason"]
        return
    parts = dict(entry["choice"])
    choice = Choice.of(parts.pop("sketch"), parts)
    if kind == "trial":
        seconds = entry["seconds"]
        standing.failed += seconds is None
        standing.trials.append((choice, math.inf if seconds is None else seconds))
    elif kind == "verdict":
        standing.verdicts[choice] = (entry["good"], entry["reason"], entry["scheduled"])
    elif kind == "race":
        standing.races[choice] = Race(
            seconds=entry["seconds"],
            default=entry["default"],
            gain=entry.get("gain", entry["default"] / entry["seconds"]),
            low=entry.get("low"),
            high=entry.get("high"),
        )


def _least(race: Race) -> float:
    return race.gain if race.low is None else race.low


def header_line() -> bytes:
    """The first line of a file."""
    return line_of({"format": HEADER, "version": FORMAT})


def line_of(entry: Record) -> bytes:
    """A record as it lies on disk."""
    text = json.dumps(entry, sort_keys=True)
    return b'{"sum": %d, ' % zlib.crc32(text.encode()) + text.encode()[1:] + b"\n"


def read_line(line: bytes) -> Record | None:
    """A line's record; None where it is damaged."""
    try:
        entry = json.loads(line)
        stated = entry.pop("sum")
        text = json.dumps(entry, sort_keys=True)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    if zlib.crc32(text.encode()) != stated:
        return None
    return entry if "format" in entry or is_record(entry) else None


def whole_lines(content: bytes) -> tuple[list[bytes], bool]:
    """Whole lines, and whether another one was cut short."""
    *lines, rest = content.split(b"\n")
    return lines, bool(rest)
