"""Where weights lie in an artefact; without a compiler, for whoever only reads a manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hetero_tvm.frontend.tensor_spec import TensorSpec, check_tensors

ALIGNMENT = 4096  # of the whole and of each weight in it: pages, so that they can be mapped
VIEW_ALIGNMENT = 128  # of a weight that is a part of another: OpenCL's largest type


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """What the manifest says of them."""

    offset: int  # in the artefact
    nbytes: int
    sha256: str
    tensors: tuple[TensorSpec, ...]
    places: tuple[int, ...]  # where each begins in them, at a multiple of `VIEW_ALIGNMENT`
    of_function: Mapping[str, tuple[int, ...]]  # which of them a function takes, last in its inputs

    def check(self) -> None:
        """Refuse what cannot be in a file; ValueError. Afterwards no weight reaches out of them."""
        check_tensors(self.tensors)
        if self.offset < 0 or self.offset % ALIGNMENT:
            raise ValueError(f"weights at {self.offset}")
        if len(self.places) != len(self.tensors):
            raise ValueError(f"{len(self.places)} places of {len(self.tensors)} weights")
        for spec, at in zip(self.tensors, self.places, strict=True):
            if at < 0 or at % VIEW_ALIGNMENT or spec.size_bytes > self.nbytes - at:
                raise ValueError(f"{spec.name} at {at} of {self.nbytes} bytes")
        for name, indices in self.of_function.items():
            if any(not 0 <= index < len(self.tensors) for index in indices):
                raise ValueError(f"{name} takes weights that are not there")


def aligned(nbytes: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def read_weights(path: Path, weights: Weights) -> list[np.ndarray]:
    """The weights of the artefact at `path`, mapped: pages are read when they are looked at."""
    found: list[np.ndarray] = []
    for spec, at in zip(weights.tensors, weights.places, strict=True):
        found.append(np.memmap(path, np.dtype(spec.dtype), "r", weights.offset + at, spec.shape))
    return found
