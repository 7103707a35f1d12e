"""What tuning found out, in a folder that outlives programs, versions and drivers.

    DIR/records.jsonl    one record a line, only ever appended to; the first line says the format

A line is written at once under a lock: who is killed loses what he
had not written. A line that was cut short by that is dropped with the next writing; any other
damage sets the whole file aside, beside the new one with the lines that are whole. So does a file
of another version of this format, which is refused where nothing is to be written; one of anything
else is refused and left alone.

What records say: `schedules.tuning_records`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from schedules.tuning_records import (
    FORMAT,
    HEADER,
    Choice,
    Kernel,
    Record,
    Standing,
    Where,
    add,
    header_line,
    line_of,
    read_line,
    whole_lines,
)

FILE = "records.jsonl"

Tell = Callable[[str], None]


class DbRefused(ValueError):
    """The folder cannot be used as a database: where, what, what to do."""


class TuningDb:
    """A database that is open for reading; `append` writes."""

    def __init__(
        self, folder: Path, *, tell: Tell = lambda line: None, write: bool = False
    ) -> None:
        """Read what `folder` has.

        Args:
            folder: made with the first record, where there is none.
            tell: called with a line about anything odd.
            write: also set files aside that are damaged, or of another version.

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
        lines, torn = whole_lines(content)
        version = self._version(lines)
        if version != FORMAT:
            if not write:
                raise DbRefused(self._of_another_version(version))
            aside = self._set_aside("other-version")
            tell(
                f"{self.path}: format {version}, this program reads {FORMAT}; the file is kept as "
                f"{aside.name}, and a new one is begun"
            )
            return
        damaged = 0
        for line in lines[1:]:
            record = read_line(line)
            if record is None:
                damaged += 1
            else:
                self.records.append(record)
        if damaged and write:
            aside = self._set_aside("damaged")
            self._write([header_line(), *map(line_of, self.records)], "wb")
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
            self._write(list(map(line_of, new)), "r+b" if self.path.exists() else "wb")
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
            add(standing, record)
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
        beside.write_bytes(b"".join([header_line(), *map(line_of, kept)]))
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
        lines, _ = whole_lines(path.read_bytes())
        theirs.folder, theirs.path = path.parent, path
        version = theirs._version(lines)
        if version != FORMAT:
            raise DbRefused(theirs._of_another_version(version))
        have = {line_of(record) for record in self.records}
        records = [record for line in lines[1:] if (record := read_line(line)) is not None]
        if len(records) < len(lines) - 1:
            tell(f"{path}: {len(lines) - 1 - len(records)} damaged lines are left out")
        new = [record for record in records if line_of(record) not in have]
        self.append(new)
        return len(new)

    # --- inside --------------------------------------------------------------------------------

    def _version(self, lines: Sequence[bytes]) -> object:
        """Of the format; raises DbRefused where it is another format."""
        header = read_line(lines[0]) if lines else None
        if header is None or header.get("format") != HEADER:
            raise DbRefused(
                f"{self.path}: no tuning records of hetero_tvm; it is left as it is. "
                "Name another folder with --db"
            )
        return header.get("version")

    def _of_another_version(self, version: object) -> str:
        return (
            f"{self.path}: format {version}, this program reads {FORMAT}; it is left as it is. "
            "Name another folder with --db, or tune into this one, which sets the file aside"
        )

    def _set_aside(self, why: str) -> Path:
        for number in range(1, 10_000):
            aside = self.path.with_name(f"records.{why}-{number}.jsonl")
            if not aside.exists():
                self.path.rename(aside)
                return aside
        raise DbRefused(f"{self.folder}: too many files that were set aside")

    def _write(self, lines: list[bytes], mode: str) -> None:
        with self._locked(), self.path.open(mode) as file:
            if mode == "r+b":  # what was cut short is no record
                content_end = _whole_bytes(file)
                file.seek(content_end)
                file.truncate()
            elif not lines[0].startswith(b'{"sum": ') or b'"format"' not in lines[0]:
                lines = [header_line(), *lines]
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _distance(one: Kernel, other: Kernel) -> float:
    total = 0.0
    for (left, _), (right, _) in zip(one.parameters, other.parameters, strict=False):
        for a, b in zip(left, right, strict=False):
            total += abs(math.log2(max(a, 1)) - math.log2(max(b, 1)))
    return total


def _whole_bytes(file: Any) -> int:
    file.seek(0)
    content = file.read()
    return content.rfind(b"\n") + 1
