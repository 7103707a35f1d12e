"""Results of emitted candidates, into the database.

Results belong to what was emitted with this database, by its id and the hash of each kernel's
source; others are refused as a whole. What is wrong, crashed or hung is quarantined there.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetero_tvm.candidates.pack import EMITTED
from hetero_tvm.candidates.runner import FORMAT
from hetero_tvm.errors import ResultsRefused
from schedules.tuning_db import TuningDb
from schedules.tuning_records import Choice, Record, Standing, Where, record

_RACE = {"seconds", "default", "gain", "low", "high", "pairs"}
_MOST = 1e300  # whole numbers can be larger than any float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Absorbed:
    """What results held."""

    where: Where
    keys: tuple[str, ...]  # of the kernels
    fresh: int  # candidates that were not in the database
    good: int  # of these
    quarantined: int
    missing: int  # emitted, without a result


def absorb(path: Path, db: TuningDb) -> Absorbed:
    """Take in the results `path`.

    Raises:
        ResultsRefused: they cannot be read, or are not of candidates that were emitted with `db`.
    """
    found = _read(path)
    about = _emitted(path, found, db)
    where = Where(device=found["device"], driver=found["driver"], limits=about["limits"])
    only = about["only"]
    if only is not None and (only["device"], only["driver"]) != (where.device, where.driver):
        raise ResultsRefused(
            f"{path}: measured on {where.device} with driver {where.driver}, but these candidates "
            f"were chosen for {only['device']} with {only['driver']}; `tune --emit FILE --on new` "
            "starts a search for another device"
        )
    results, races = found["results"], found["races"]
    _check_same(path, about, results)
    known, standings = db.kernels(), db.standings()
    records: list[Record] = []
    counts = {"fresh": 0, "good": 0, "missing": 0}
    for kernel in about["kernels"]:
        key = kernel["key"]
        default, *others = kernel["candidates"]
        counts["missing"] += sum(chosen["name"] not in results for chosen in kernel["candidates"])
        if default["name"] not in results:
            continue  # the default comes first: nothing of this kernel was tried
        standing = standings.get((key, where), Standing(key=key, where=where))
        tried = {choice for choice, _ in standing.trials}
        mine = [
            (_choice(chosen), chosen, results[chosen["name"]])
            for chosen in others
            if chosen["name"] in results
        ]
        mine = [row for row in mine if row[0] not in tried]
        if key not in known:
            records.append(kernel["record"])
        if standing.default_s is None or mine:
            records.append(_default(key, where, results[default["name"]]))
        default_s = _median(results[default["name"]])
        for choice, chosen, result in mine:
            counts["fresh"] += 1
            counts["good"] += result["how"] == "ok"
            records += _trial(key, where, choice, chosen["scheduled"], result, default_s)
            if chosen["name"] in races.get(key, {}):
                fields = _raced(races[key][chosen["name"]])
                records.append(record("race", key, where, choice, **fields))
    db.append(records)
    return Absorbed(
        where=where,
        keys=tuple(kernel["key"] for kernel in about["kernels"]),
        quarantined=counts["fresh"] - counts["good"],
        **counts,
    )


def _read(path: Path) -> dict[str, Any]:
    """A file of results whose every value is what it has to be."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise ResultsRefused(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ResultsRefused(f"{path}: damaged, or no results of run.py; copy it again") from None
    if not isinstance(found, dict) or "results" not in found or "id" not in found:
        raise ResultsRefused(f"{path}: no results of run.py")
    if found.get("format") != FORMAT:
        raise ResultsRefused(f"{path}: of another version of run.py; emit and measure again")
    try:
        fine = all(isinstance(found[name], str) for name in ("id", "device", "driver"))
        fine = fine and all(_is_result(one) for one in found["results"].values())
        for raced in found["races"].values():
            fine = fine and all(_is_race(_raced(one)) for one in raced.values())
    except (KeyError, TypeError, AttributeError, ValueError):
        fine = False
    if not fine:
        raise ResultsRefused(f"{path}: damaged, or changed by hand; run run.py again")
    return found


def _is_result(one: Mapping[str, Any]) -> bool:
    if not isinstance(one["how"], str) or not isinstance(one["sha256"], str):
        return False
    if one["how"] != "ok":
        return True
    times = [*one["seconds"], *one["beside"]]
    return bool(one["seconds"]) and all(map(_is_time, times)) and 0 <= one["error"] < _MOST


def _raced(one: Any) -> Mapping[str, Any]:
    """Fields of a race; earlier programs wrote seconds, and those of the default, alone."""
    return dict(zip(("seconds", "default"), one, strict=True)) if isinstance(one, list) else one


def _is_race(one: Mapping[str, Any]) -> bool:
    return {"seconds", "default"} <= set(one) <= _RACE and all(map(_is_time, one.values()))


def _is_time(seconds: Any) -> bool:
    return isinstance(seconds, int | float) and 0 < seconds < _MOST


def _emitted(path: Path, found: Mapping[str, Any], db: TuningDb) -> dict[str, Any]:
    """What was sent out under the results' id."""
    file = db.folder / EMITTED / f"{found['id']}.json"
    if not found["id"].isalnum() or not file.is_file():
        raise ResultsRefused(
            f"{path}: results of candidates that were not emitted with the database {db.folder}; "
            "name the one that `tune --emit` was given with --db"
        )
    try:
        about: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        raise ResultsRefused(f"{file}: damaged; emit and measure again") from None
    return about


def _check_same(path: Path, about: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Refuse results of other kernels than were emitted."""
    files = {
        chosen["name"]: about["files"][chosen["file"]]
        for kernel in about["kernels"]
        for chosen in kernel["candidates"]
    }
    for name, result in results.items():
        if name not in files:
            raise ResultsRefused(f"{path}: there is a result of {name}, which was not emitted")
        if result["sha256"] != files[name]:
            raise ResultsRefused(f"{path}: of {name} another kernel was measured than was emitted")


def _choice(chosen: Mapping[str, Any]) -> Choice:
    parts = dict(chosen["choice"])
    return Choice.of(parts.pop("sketch"), parts)


def _median(result: Mapping[str, Any]) -> float | None:
    return statistics.median(result["seconds"]) if result["how"] == "ok" else None


def _default(key: str, where: Where, result: Mapping[str, Any]) -> Record:
    good = result["how"] == "ok"
    reason = "" if good else result["how"]
    return record("default", key, where, seconds=_median(result), good=good, reason=reason)


def _trial(
    key: str,
    where: Where,
    choice: Choice,
    scheduled: str,
    result: Mapping[str, Any],
    default_s: float | None,
) -> list[Record]:
    """A trial's time, in the default's time where they ran in turns, and its verdict."""
    good, seconds = result["how"] == "ok", _median(result)
    if seconds is not None and default_s is not None and result["beside"]:
        seconds *= default_s / statistics.median(result["beside"])
    how, error = ("ok", "") if good else (result["how"].split(":")[0], result["how"])
    return [
        record(
            "trial", key, where, choice, seconds=seconds, how=how, error=error, place="absorbed"
        ),
        record(
            "verdict",
            key,
            where,
            choice,
            good=good,
            reason="" if good else result["how"],
            error=result.get("error"),
            scheduled=scheduled,
        ),
    ]
