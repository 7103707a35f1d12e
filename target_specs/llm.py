"""Read the architecture of a large language model from TOML; refuse anything unexplained.

A file in `llms/` says what a model's graph looks like, never its weights: decoder layers of
RMS norm, grouped-query attention with rotary positions and a SwiGLU feed-forward part.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from pathlib import Path
from typing import Any

from target_specs.loader import SpecError
from target_specs.spec import Range

LLMS = Path(__file__).parent / "llms"
WEIGHT_BITS = (4, 8, 16)
ACTIVATIONS = ("float16",)  # what both accelerators multiply in; nothing else has figures


def _in(low: int, high: int, why: str) -> Any:
    return dataclasses.field(metadata={"range": Range(low, high, why)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlmSpec:
    """One architecture. One field is one key of the TOML file."""

    name: str  # what the user types
    source: str  # model card and config.json
    layers: int = _in(1, 512, "no published decoder has more")
    hidden: int = _in(32, 65_536, "columns of the residual stream")
    ffn: int = _in(32, 262_144, "columns of the gate, and of the up product")
    heads: int = _in(1, 1_024, "of queries")
    kv_heads: int = _in(1, 1_024, "of keys and of values; divides heads")
    head_dim: int = _in(8, 1_024, "columns of one head")
    vocabulary: int = _in(2, 10_000_000, "rows of the embedding")
    weight_bits: int = _in(4, 16, "4 is W4A16, 16 unquantised")
    activation: str

    @property
    def query_columns(self) -> int:
        """Columns of the queries, and of the attention's result."""
        return self.heads * self.head_dim

    @property
    def key_columns(self) -> int:
        """Columns of the keys, and of the values, of one token."""
        return self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Elements of the weight matrices, one read of which every decoded token costs.

        Embedding rows are not among them: one is read per token.
        """
        attention = self.hidden * 2 * (self.query_columns + self.key_columns)
        return (
            self.layers * (attention + 3 * self.hidden * self.ffn) + self.hidden * self.vocabulary
        )


def list_llms() -> list[str]:
    """Names of the architectures that ship."""
    return sorted(path.stem for path in LLMS.glob("*.toml"))


def load_llm(name_or_path: str | Path) -> LlmSpec:
    """The architecture of that name, or of a TOML file by its path (`*.toml`).

    Raises:
        SpecError: unknown, unreadable or absurd; the message names file and key.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return _load(path)
    name, known = str(name_or_path), list_llms()
    if name not in known:
        near = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise SpecError(
            f"unknown llm {name!r}; {hint}llms: {', '.join(known)}, or a path to a .toml file"
        )
    llm = _load(LLMS / f"{name}.toml")
    assert llm.name == name, f"{name}.toml calls itself {llm.name}"
    return llm


def _load(path: Path) -> LlmSpec:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path.name}: not valid TOML: {error}") from error
    fields = {field.name: field for field in dataclasses.fields(LlmSpec)}
    for key in raw:
        if key not in fields:
            raise SpecError(f"{path.name}: unknown key {key!r}; known keys: {', '.join(fields)}")
    for key, field in fields.items():
        if key not in raw:
            raise SpecError(f"{path.name}: missing key {key!r}")
        limits = field.metadata.get("range")
        if limits is None:
            if not (isinstance(raw[key], str) and raw[key].strip()):
                raise SpecError(f"{path.name}: {key} must be a non-empty text, got {raw[key]!r}")
        else:
            _check_whole(raw[key], limits, path.name, key)
    llm = LlmSpec(**raw)
    _check_together(llm, path.name)
    return llm


def _check_whole(value: Any, limits: Range, where: str, key: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(f"{where}: {key} must be a whole number, got {value!r}")
    if not limits.low <= value <= limits.high:
        raise SpecError(
            f"{where}: {key} must be within {limits.low:g} to {limits.high:g} "
            f"({limits.why}), got {value!r}"
        )


def _check_together(llm: LlmSpec, where: str) -> None:
    """What no single key can show to be wrong."""
    if llm.weight_bits not in WEIGHT_BITS:
        allowed = ", ".join(map(str, WEIGHT_BITS))
        raise SpecError(f"{where}: weight_bits must be one of {allowed}, got {llm.weight_bits}")
    if llm.activation not in ACTIVATIONS:
        allowed = ", ".join(ACTIVATIONS)
        raise SpecError(f"{where}: activation must be {allowed}, got {llm.activation!r}")
    if llm.heads % llm.kv_heads:
        raise SpecError(f"{where}: kv_heads must divide heads, got {llm.kv_heads} and {llm.heads}")
    if llm.parameters > 2e12:
        raise SpecError(
            f"{where}: layers, hidden, ffn and vocabulary together make "
            f"{llm.parameters:,} weights; nothing of that size exists"
        )
