"""A bound on the memory of devices: a plan that keeps it, and a clear word where nothing does.

Counted are a plan's weights, on each device in the form that it has them, the activations that
live at once, and the model's inputs, a language model's caches among them. What processes take
beside that is not (`memory_forecast`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hetero_tvm.bundle import Manifest
from hetero_tvm.errors import BadInput, OverMemoryLimit
from hetero_tvm.frontend.tensor_spec import TensorSpec
from hetero_tvm.memory_forecast import PlanMemory
from relay_passes.memory_table import MemoryTable

VARIABLE = "HETERO_MEMORY_LIMIT"  # of a process that runs; the runtime holds every allocation to it
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30}


def read_bytes(text: str, what: str) -> int:
    """Bytes of `1500000`, `64K`, `512M` or `2G`.

    Raises:
        BadInput: anything else, or none; `what` says where it stood.
    """
    found = re.fullmatch(r"([0-9]{1,15})([KMG]?)", text)
    if found is None or int(found[1]) == 0:
        raise BadInput(f"{what} {text}: give bytes, or a number with K, M or G behind, as in 512M")
    return int(found[1]) << _UNITS[found[2]]


def needed_bytes(memory: PlanMemory, inputs: Sequence[TensorSpec]) -> int:
    """What a plan takes of the memory that devices share."""
    weights = sum(device.weights for device in memory.devices.values())
    return weights + memory.activations + sum(spec.size_bytes for spec in inputs)


def refusal(
    plans: Mapping[str, PlanMemory], inputs: Sequence[TensorSpec], limit: int
) -> OverMemoryLimit:
    """Why none of `plans` (by mode) keeps the limit: the smallest one, by parts."""
    mode = min(plans, key=lambda name: needed_bytes(plans[name], inputs))
    memory = plans[mode]
    weights = ", ".join(f"{name} {one.weights:,}" for name, one in memory.devices.items())
    border = sum(spec.size_bytes for spec in inputs)
    return OverMemoryLimit(
        f"the smallest plan ({mode}) needs {needed_bytes(memory, inputs):,} bytes: weights "
        f"{weights}; activations {memory.activations:,}; inputs and caches {border:,}; the limit "
        f"is {limit:,}; raise --memory-limit, use one device, a shorter length or context, or "
        "weights of fewer bits"
    )


def artefact_bytes(
    tables: Mapping[str, MemoryTable],
    inputs: Sequence[TensorSpec],
    weight_bytes: int,
) -> int:
    """What an artefact takes at least, once it has run: its largest function, and its weights."""
    own = max((sum(table.storages) + table.constants for table in tables.values()), default=0)
    return own + weight_bytes + sum(spec.size_bytes for spec in inputs)


def check_load(path: Path, manifest: Manifest, in_use: int) -> None:
    """Before anything of an artefact is loaded: is there room for it?

    Raises:
        OverMemoryLimit: not under `HETERO_MEMORY_LIMIT`.
        BadInput: that is no number of bytes.
    """
    text = os.environ.get(VARIABLE)
    if not text or not manifest.memory_bytes:
        return
    limit = read_bytes(text, VARIABLE)
    if manifest.memory_bytes > limit - in_use:
        raise OverMemoryLimit(
            f"{path}: takes at least {manifest.memory_bytes:,} bytes of device memory, {in_use:,} "
            f"are in use and {VARIABLE} is {limit:,}; raise it, or build with --memory-limit"
        )
