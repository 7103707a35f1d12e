"""How far two sets of outputs are apart, and whether that is near enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What "right" means: `relative_error` is a ratio of L2 norms, per output.

    Integer and boolean outputs must be equal, whatever the arithmetic, unless `exact_integers` is
    false.
    """

    relative_error: float
    cosine: float
    exact_integers: bool = True


# fp32 re-association over a few thousand terms stays below 1e-5; the rest is margin.
FLOAT32 = Tolerance(relative_error=1e-4, cosine=0.9999)
# fp16 has a unit round-off of 4.9e-4, and errors of tens of layers add up.
FLOAT16 = Tolerance(relative_error=1e-2, cosine=0.9999)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputError:
    """One output against its reference."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    max_abs_error: float
    relative_error: float
    cosine: float
    held: bool


def compare(
    outputs: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], tolerance: Tolerance
) -> list[OutputError]:
    """Compare output by output, in the reference's order; both must have the same names."""
    return [_compare_one(name, outputs[name], reference[name], tolerance) for name in reference]


def _compare_one(
    name: str, output: np.ndarray, reference: np.ndarray, tolerance: Tolerance
) -> OutputError:
    def found(max_abs: float, relative: float, cosine: float, held: bool) -> OutputError:
        return OutputError(
            name=name,
            shape=tuple(reference.shape),
            dtype=str(reference.dtype),
            max_abs_error=max_abs,
            relative_error=relative,
            cosine=cosine,
            held=held,
        )

    if output.shape != reference.shape or output.dtype != reference.dtype:
        return found(np.inf, np.inf, 0.0, False)
    a, b = output.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # infinities and NaN in the same places
    with np.errstate(invalid="ignore"):  # infinity minus infinity, which `same` takes care of
        difference = np.where(same, 0.0, a - b)
    finite = np.isfinite(a) & np.isfinite(b)
    error, norm = float(np.linalg.norm(difference)), float(np.linalg.norm(b[finite]))
    relative = 0.0 if error == 0 else error / norm if norm > 0 else np.inf
    cosine = _cosine(a[finite], b[finite])
    held = relative <= tolerance.relative_error and cosine >= tolerance.cosine
    if tolerance.exact_integers and not np.issubdtype(reference.dtype, np.floating):
        held = error == 0
    return found(float(np.abs(difference).max(initial=0.0)), relative, cosine, held)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float(min(1.0, a @ b / norms))
