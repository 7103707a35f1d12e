"""The catalogue of errors: what each id of `hetero_tvm.errors` means, why it happens, what next."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from pathlib import Path

from hetero_tvm import errors

_FILE = Path(__file__).with_name("errors.toml")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One kind of error as `explain` shows it."""

    id: str
    exit_code: int
    title: str
    means: str
    causes: tuple[str, ...]
    next: tuple[str, ...]


def kinds() -> dict[str, type[errors.HeteroError]]:
    """Id -> the class that declares it."""
    found = (value for value in vars(errors).values() if isinstance(value, type))
    return {
        kind.id: kind
        for kind in found
        if issubclass(kind, errors.HeteroError) and "id" in vars(kind)
    }


@functools.cache
def entries() -> dict[str, Entry]:
    """Every entry by its id, in order."""
    tables = tomllib.loads(_FILE.read_text())
    return {
        id_: Entry(
            id=id_,
            exit_code=kinds()[id_].exit_code,
            title=table["title"],
            means=" ".join(table["means"].split()),
            causes=tuple(table["causes"]),
            next=tuple(table["next"]),
        )
        for id_, table in sorted(tables.items())
    }
