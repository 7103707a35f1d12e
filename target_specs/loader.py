"""Read a SoC description from TOML into frozen dataclasses; refuse anything unexplained.

A figure is a bare value, which has its table's `source` and `provenance`, or an inline table

    matmul_gflops = { value = 790.0, provenance = "published", source = "paper, table 3" }

that states its own. A text that several figures cite stands once in the table `[sources]` and is
cited as `[key]` inside a `source`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from target_specs.spec import (
    PROVENANCES,
    PROVIDERS,
    GpuSpec,
    MemorySpec,
    NpuSpec,
    Origin,
    Range,
    SocSpec,
    Table,
)

SOCS = Path(__file__).parent / "socs"
ALIASES = SOCS / "aliases.toml"
_QNN_ONLY = ("soc_model", "htp_arch", "vtcm_mb")
_CITATION = re.compile(r"\[([A-Za-z][\w-]*)\]")

T = TypeVar("T", bound=Table)


class SpecError(ValueError):
    """A target spec is unknown or malformed. The message names file, table and key."""


def list_specs() -> list[str]:
    """Names of the targets that ship, `host` first."""
    names = sorted(path.stem for path in SOCS.glob("*.toml") if path != ALIASES)
    return sorted(names, key=lambda name: name != "host")


def aliases() -> dict[str, str]:
    """Alias -> the target it stands for."""
    raw = _read(ALIASES)
    for alias, table in raw.items():
        if not isinstance(table, dict) or set(table) != {"target", "source"}:
            raise SpecError(f"{ALIASES.name} [{alias}]: needs exactly the keys target and source")
        if table["target"] not in list_specs():
            raise SpecError(f"{ALIASES.name} [{alias}]: target {table['target']!r} does not exist")
    return {alias: table["target"] for alias, table in raw.items()}


def resolve(name: str) -> str:
    """The target that `name` stands for; SpecError with the nearest names if there is none."""
    known, short = list_specs(), aliases()
    if name in known:
        return name
    if name in short:
        return short[name]
    names = [*known, *short]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise SpecError(f"unknown target {name!r}; {hint}targets: {', '.join(names)}")


def load_spec(name_or_path: str | Path) -> SocSpec:
    """The spec of a target by name or alias, or of a TOML file by its path (`*.toml`)."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return _load(path)
    name = resolve(str(name_or_path))
    spec = _load(SOCS / f"{name}.toml")
    assert spec.name == name, f"{name}.toml calls itself {spec.name}"
    return spec


def _load(path: Path) -> SocSpec:
    raw = _read(path)
    tables: dict[str, type[Table]] = {"memory": MemorySpec, "gpu": GpuSpec, "npu": NpuSpec}
    words = ("name", "soc", "source")
    for key in raw:
        if key not in (*words, "soc_ids", "sources", *tables):
            known = ", ".join([*words, "soc_ids", *(f"[{t}]" for t in ("sources", *tables))])
            raise SpecError(f"{path.name}: unknown key {key!r}; known keys: {known}")
    for key in words:
        _check_word(raw.get(key), path.name, key)
    cite = _citations(raw.get("sources", {}), path.name)
    built = {}
    for key, cls in tables.items():
        if not isinstance(raw.get(key), dict):
            raise SpecError(f"{path.name}: missing table [{key}]")
        built[key] = _build(cls, raw[key], f"{path.name} [{key}]", cite)
    spec = SocSpec(
        name=raw["name"],
        soc=raw["soc"],
        soc_ids=_soc_ids(raw.get("soc_ids"), path.name),
        source=cite(raw["source"], f"{path.name}: source"),
        **built,  # type: ignore[arg-type]
    )
    _check_together(spec, path.name)
    return spec


Cite = Callable[[str, str], str]  # a source's text, where it stands -> with citations written out


def _citations(sources: Any, where: str) -> Cite:
    if not isinstance(sources, dict):
        raise SpecError(f"{where}: sources must be a table")
    for key, text in sources.items():
        _check_word(text, f"{where} [sources]", key)

    def cite(text: str, place: str) -> str:
        for key in _CITATION.findall(text):
            if key not in sources:
                raise SpecError(f"{place} cites [{key}], which [sources] does not have")
        return _CITATION.sub(lambda match: sources[match[1]], text)

    return cite


def _soc_ids(value: Any, where: str) -> tuple[int, ...]:
    whole = isinstance(value, list) and all(type(v) is int and v > 0 for v in value)
    if not whole:
        raise SpecError(f"{where}: soc_ids must be a list of positive whole numbers, got {value!r}")
    return tuple(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path.name}: not valid TOML: {error}") from error


def _build(cls: type[T], table: dict[str, Any], where: str, cite: Cite) -> T:
    """One dataclass from one table; `dataclasses.fields` is the only list of keys."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.name != "origins"}
    hints = get_type_hints(cls)
    for key in table:
        if key not in fields:
            raise SpecError(f"{where}: unknown key {key!r}; known keys: {', '.join(fields)}")
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for key, field in fields.items():
        if key not in table:
            if field.default is dataclasses.MISSING:
                raise SpecError(f"{where}: missing key {key!r}")
            continue
        value = table[key]
        if isinstance(value, dict):
            value, origins[key] = _figure(value, where, key, cite)
        limits = field.metadata.get("range")
        if field.metadata.get("at_rows"):
            values[key] = _check_at_rows(value, limits, where, key)
        else:
            values[key] = _check_value(value, hints[key], limits, where, key)
    _check_provenance(values["provenance"], where, "provenance")
    values["source"] = cite(values["source"], f"{where}: source")
    return cls(**values, origins=types.MappingProxyType(origins))


def _figure(figure: dict[str, Any], where: str, key: str, cite: Cite) -> tuple[Any, Origin]:
    if set(figure) != {"value", "provenance", "source"}:
        raise SpecError(
            f"{where}: {key} needs value, provenance and source, got {', '.join(sorted(figure))}"
        )
    _check_word(figure["source"], where, f"{key}.source")
    _check_provenance(figure["provenance"], where, f"{key}.provenance")
    source = cite(figure["source"], f"{where}: {key}.source")
    return figure["value"], Origin(figure["provenance"], source)


def _check_value(value: Any, hint: Any, limits: Range | None, where: str, key: str) -> Any:
    if limits is not None:
        return _check_number(value, hint in (int, int | None), limits, where, key)
    if hint in (bool, bool | None):
        if not isinstance(value, bool):
            raise SpecError(f"{where}: {key} must be true or false, got {value!r}")
        return value
    if hint == frozenset[str]:
        if not (isinstance(value, list) and value and all(isinstance(v, str) for v in value)):
            raise SpecError(f"{where}: {key} must be a list of names, got {value!r}")
        return frozenset(value)
    _check_word(value, where, key)
    return value


def _check_number(value: Any, whole: bool, limits: Range, where: str, key: str) -> int | float:
    kind = "whole number" if whole else "number"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise SpecError(f"{where}: {key} must be a {kind}, got {value!r}")
    if not value > 0:  # also refuses nan
        raise SpecError(f"{where}: {key} must be a positive number, got {value!r}")
    if not limits.low <= value <= limits.high:
        raise SpecError(
            f"{where}: {key} must be within {limits.low:g} to {limits.high:g} "
            f"({limits.why}), got {value!r}"
        )
    return int(value) if whole else float(value)


def _check_at_rows(
    value: Any, limits: Range | None, where: str, key: str
) -> tuple[tuple[int, float], ...]:
    assert limits is not None, key
    pairs = isinstance(value, list) and all(isinstance(v, list) and len(v) == 2 for v in value)
    if not (pairs and value):
        raise SpecError(f"{where}: {key} must be a list of [rows, rate], got {value!r}")
    rows = [row for row, _ in value]
    if not all(type(row) is int and row > 0 for row in rows) or rows != sorted(set(rows)):
        raise SpecError(f"{where}: {key} must have ascending positive whole rows, got {rows}")
    return tuple(
        (row, _check_number(rate, False, limits, where, f"{key} at {row} rows"))
        for row, rate in value
    )


def _check_word(value: Any, where: str, key: str) -> None:
    if not (isinstance(value, str) and value.strip()):
        raise SpecError(f"{where}: {key} must be a non-empty text, got {value!r}")


def _check_provenance(value: Any, where: str, key: str) -> None:
    if value not in PROVENANCES:
        raise SpecError(f"{where}: {key} must be one of {', '.join(PROVENANCES)}, got {value!r}")


def _check_together(spec: SocSpec, where: str) -> None:
    """What no single key can show to be wrong."""
    npu, memory = spec.npu, spec.memory
    if npu.provider not in PROVIDERS:
        raise SpecError(
            f"{where} [npu]: provider must be one of {', '.join(PROVIDERS)}, got {npu.provider!r}"
        )
    for key in _QNN_ONLY:
        if (getattr(npu, key) is None) == (npu.provider == "qnn"):
            verb = "needs" if npu.provider == "qnn" else "has no use for"
            raise SpecError(f"{where} [npu]: provider {npu.provider!r} {verb} {key!r}")
    if not memory.one_device_gbps <= memory.two_devices_gbps <= memory.peak_gbps:
        raise SpecError(
            f"{where} [memory]: expected one_device_gbps <= two_devices_gbps <= peak_gbps, got "
            f"{memory.one_device_gbps:g}, {memory.two_devices_gbps:g}, {memory.peak_gbps:g}"
        )
