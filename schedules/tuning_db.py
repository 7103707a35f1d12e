"""What tuning found out, in a folder that outlives programs, versions and drivers.

    DIR/records.jsonl    one record a line, only ever appended to; the first line says the format

A line is `{"sum": crc32 of the rest, …}`, written at once under a lock: who is killed loses what he
had not written. A line that was cut short by that is dropped with the next writing; any other
damage sets the whole file aside, beside the new one with the lines that are whole. A file of
another format is refused and left alone.

Records say which kernel they are of (`key`), on which device with which driver, under which limits
of a target. Types:

    kernel   name, parameters, and the shape of its family, by which neighbours are found
    default  seconds of the untuned kernel, and if it is right
    trial    a sketch and its choices: seconds, or what went wrong
    verdict  trial's choices again: good, or quarantined and why; the hash of the scheduled kernel
    race     seconds of a schedule and of the default, run in turns
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tvm import tirx

from schedules.trials import hash_of, parameters, plain

FORMAT = 1
FILE = "records.jsonl"
_TYPES = ("kernel", "default", "trial", "verdict", "race")
_HEADER = "hetero-tvm tuning records"

Record = dict[str, Any]
Tell = Callable[[str], None]


class DbRefused(ValueError):
    """The folder cannot be used as a database: where, what, what to do."""


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
    # Seconds of a schedule and of the default, run in turns.
    races: dict[Choice, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def quarantined(self) -> list[tuple[Choice, str]]:
        """What is wrong here, and how."""
        return [(choice, why) for choice, (good, why, _) in self.verdicts.items() if not good]

    def best(self) -> tuple[Choice, float, str] | None:
        """The fastest that is verified: its choices, seconds, and the scheduled kernel's hash.

        By the races against the default, where there were any: a trial is one glance at a machine
        that may have been busy.
        """
        good = self._good()
        if not good:
            return None
        raced = [row for row in good if row[2] in self.races]
        if raced:
            seconds, _, choice = min(raced, key=lambda row: self._ratio(row[2]))
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

    def _ratio(self, choice: Choice) -> float:
        seconds, default = self.races[choice]
        return seconds / default

    @property
    def gain(self) -> float | None:
        """Default's time over the best's; from the race where there was one."""
        best = self.best()
        if best is None:
            return None
        if best[0] in self.races:
            return 1 / self._ratio(best[0])
        return None if self.default_s is None else self.default_s / best[1]


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


class TuningDb:
    """A database that is open for reading; `append` writes."""

    def __init__(
        self, folder: Path, *, tell: Tell = lambda line: None, write: bool = False
    ) -> None:
        """Read what `folder` has.

        Args:
            folder: made with the first record, where there is none.
            tell: called with a line about anything odd.
            write: also set damaged files aside.

        Raises:
            DbRefused: it is no folder, cannot be read, or of another format.
        """
        self.folder = folder
        self.path = folder / FILE
        self.records: list[Record] = []
        if folder.exists() and not folder.is_dir():
            raise DbRefused(f"{folder}: is a file; a database is a folder")
        if not self.path.exists():
            return
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise DbRefused(f"{self.path}: cannot be read: {error.strerror}") from None
        lines, torn = _lines(content)
        self._check_header(lines)
        damaged = 0
        for line in lines[1:]:
            record = _read(line)
            if record is None:
                damaged += 1
            else:
                self.records.append(record)
        if damaged and write:
            aside = self._set_aside()
            self._write([_header(), *map(_line, self.records)], "wb")
            tell(
                f"{self.path}: {damaged} damaged lines; the file is kept as {aside.name}, "
                f"and {len(self.records)} whole records are used"
            )
        elif damaged:
            tell(f"{self.path}: {damaged} damaged lines are left out")
        elif torn:
            tell(f"{self.path}: the last line was cut short; it is left out")

    def append(self, records: Iterable[Record]) -> None:
        """Add records; they are on the disk when this returns.

        Raises:
            DbRefused: the folder cannot be written to.
        """
        new = [dict(record) for record in records]
        if not new:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(list(map(_line, new)), "r+b" if self.path.exists() else "wb")
        except OSError as error:
            raise DbRefused(f"{self.path}: cannot be written: {error.strerror}") from None
        self.records += new

    def kernels(self) -> dict[str, Kernel]:
        """Every kernel there is a record of, by key."""
        return {
            record["key"]: Kernel(
                key=record["key"],
                name=record["name"],
                family=record["family"],
                parameters=tuple((tuple(shape), dtype) for shape, dtype in record["parameters"]),
            )
            for record in self.records
            if record["type"] == "kernel"
        }

    def standings(self) -> dict[tuple[str, Where], Standing]:
        """All records, put together by kernel and place."""
        found: dict[tuple[str, Where], Standing] = {}
        for record in self.records:
            if record["type"] == "kernel":
                continue
            where = Where(**record["where"])
            standing = found.setdefault(
                (record["key"], where), Standing(key=record["key"], where=where)
            )
            _add(standing, record)
        return found

    def neighbours(self, kernel: Kernel, where: Where, most: int = 4) -> list[Choice]:
        """What was best for the same function at other shapes, the nearest first."""
        kernels, near = self.kernels(), []
        for (key, place), standing in self.standings().items():
            other, best = kernels.get(key), standing.best()
            if other is None or best is None or key == kernel.key:
                continue
            if other.family == kernel.family and place.limits == where.limits:
                near.append((_distance(kernel, other), key, best[0]))
        return [choice for _, _, choice in sorted(near, key=lambda row: row[:2])[:most]]

    def export(self, path: Path) -> int:
        """Write what others can use to a file: kernels, defaults, races, verdicts and their times.

        Returns how many records.
        """
        judged = {
            (record["key"], json.dumps(record["where"]), json.dumps(record["choice"]))
            for record in self.records
            if record["type"] == "verdict"
        }
        kept = [
            record
            for record in self.records
            if record["type"] != "trial"
            or (record["key"], json.dumps(record["where"]), json.dumps(record["choice"])) in judged
        ]
        beside = path.with_name(f".{path.name}.part")
        beside.write_bytes(b"".join([_header(), *map(_line, kept)]))
        beside.replace(path)
        return len(kept)

    def merge(self, other: Path, *, tell: Tell = lambda line: None) -> int:
        """Take in another database, or an exported file; returns how many records were new.

        Raises:
            DbRefused: it cannot be read.
        """
        path = other / FILE if other.is_dir() else other
        if not path.is_file():
            raise DbRefused(f"{other}: no database and no exported records")
        theirs = TuningDb.__new__(TuningDb)
        lines, _ = _lines(path.read_bytes())
        theirs.folder, theirs.path = path.parent, path
        theirs._check_header(lines)
        have = {_line(record) for record in self.records}
        records = [record for line in lines[1:] if (record := _read(line)) is not None]
        if len(records) < len(lines) - 1:
            tell(f"{path}: {len(lines) - 1 - len(records)} damaged lines are left out")
        new = [record for record in records if _line(record) not in have]
        self.append(new)
        return len(new)

    # --- inside --------------------------------------------------------------------------------

    def _check_header(self, lines: Sequence[bytes]) -> None:
        header = _read(lines[0]) if lines else None
        if header is None or header.get("format") != _HEADER:
            raise DbRefused(
                f"{self.path}: no tuning records of hetero_tvm; it is left as it is. "
                "Name another folder with --db"
            )
        if header.get("version") != FORMAT:
            raise DbRefused(
                f"{self.path}: format {header.get('version')}, this program reads {FORMAT}; "
                "it is left as it is. Name another folder with --db"
            )

    def _set_aside(self) -> Path:
        for number in range(1, 10_000):
            aside = self.path.with_name(f"records.damaged-{number}.jsonl")
            if not aside.exists():
                self.path.rename(aside)
                return aside
        raise DbRefused(f"{self.folder}: too many damaged files")

    def _write(self, lines: list[bytes], mode: str) -> None:
        with self._locked(), self.path.open(mode) as file:
            if mode == "r+b":  # what was cut short is no record
                content_end = _whole_bytes(file)
                file.seek(content_end)
                file.truncate()
            elif not lines[0].startswith(b'{"sum": ') or b'"format"' not in lines[0]:
                lines = [_header(), *lines]
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def record(
    kind: str, key: str, where: Where | None = None, choice: Choice | None = None, **more: Any
) -> Record:
    """A record as it is written."""
    assert kind in _TYPES
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


def _add(standing: Standing, entry: Record) -> None:
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
        standing.races[choice] = (entry["seconds"], entry["default"])


def _distance(one: Kernel, other: Kernel) -> float:
    total = 0.0
    for (left, _), (right, _) in zip(one.parameters, other.parameters, strict=False):
        for a, b in zip(left, right, strict=False):
            total += abs(math.log2(max(a, 1)) - math.log2(max(b, 1)))
    return total


def _header() -> bytes:
    return _line({"format": _HEADER, "version": FORMAT})


def _line(entry: Record) -> bytes:
    text = json.dumps(entry, sort_keys=True)
    return b'{"sum": %d, ' % zlib.crc32(text.encode()) + text.encode()[1:] + b"\n"


def _read(line: bytes) -> Record | None:
    """A line's record; None where it is damaged."""
    try:
        entry = json.loads(line)
        stated = entry.pop("sum")
        text = json.dumps(entry, sort_keys=True)
    except (ValueError, KeyError, AttributeError, UnicodeDecodeError):
        return None
    if zlib.crc32(text.encode()) != stated:
        return None
    if "type" in entry and entry["type"] not in _TYPES:
        return None
    return entry


def _lines(content: bytes) -> tuple[list[bytes], bool]:
    """Whole lines, and whether another one was cut short."""
    *lines, rest = content.split(b"\n")
    return lines, bool(rest)


def _whole_bytes(file: Any) -> int:
    file.seek(0)
    content = file.read()
    return content.rfind(b"\n") + 1
