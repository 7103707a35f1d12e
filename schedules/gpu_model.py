"""GPU kernels that nobody measured, from those that somebody did: gradient-boosted trees.

What is learnt is the logarithm of measured time over the roofline's, from the shape. So a record
corrects what the roofline gets wrong there and nearby, and far from all records little changes.

A record is one line of JSON:

    {"kind": "matmul", "rows": 64, "depth": 1024, "columns": 4096, "macs": ..., "bytes": ...,
     "element_bytes": 4, "reduces": false, "us": 812.5, "roofline_us": 790.1}

Requires: xgboost (`pip install 'hetero-tvm[tune]'`) to train and to predict.
Ensures:  the same records give the same model; its error is that of records it had not seen.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schedules.work import Shape

FEWEST = 8  # records; below this there is nothing to hold back for the error
_FOLDS = 4
_KINDS = ("matmul", "batched_matmul", "conv", "vector")


class GpuModelUnavailable(ValueError):
    """No model can be trained: why, and what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One measured kernel."""

    kind: str
    rows: int
    depth: int
    columns: int
    macs: int
    bytes: int
    element_bytes: int
    reduces: bool
    us: float  # measured
    roofline_us: float  # of the spec that it was measured under


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuModel:
    """A trained model."""

    booster: Any
    records: int
    error: float  # median of |predicted / measured - 1| over records that were held back
    roofline_error: float  # the same of the roofline
    kinds: frozenset[str]  # that it has seen

    def predict_us(self, shape: Shape, roofline_us: float) -> float | None:
        """Time of a kernel; None for a kind that no record is of, or a worse guess than before."""
        if shape.kind not in self.kinds or self.error >= self.roofline_error:
            return None
        features = np.array([_features(shape)], np.float32)
        return roofline_us * math.exp(float(self.booster.inplace_predict(features)[0]))

    @property
    def summary(self) -> str:
        """One line for people."""
        return (
            f"GPU model of {self.records} measured kernels: off by {self.error:.0%} on kernels it "
            f"had not seen, the roofline by {self.roofline_error:.0%} (medians)"
        )


def train(records: Sequence[Record]) -> GpuModel:
    """Fit `records`.

    Raises:
        GpuModelUnavailable: too few records, or xgboost is not installed.
    """
    if len(records) < FEWEST:
        raise GpuModelUnavailable(f"{len(records)} records; {FEWEST} are the fewest to train on")
    if importlib.util.find_spec("xgboost") is None:
        raise GpuModelUnavailable("xgboost is not installed; run: pip install 'hetero-tvm[tune]'")
    features = np.array([_features(record) for record in records], np.float32)
    target = np.array([math.log(r.us / r.roofline_us) for r in records], np.float32)
    order = np.random.default_rng(0).permutation(len(records))
    errors: list[float] = []
    for fold in range(_FOLDS):
        held = order[fold::_FOLDS]
        kept = np.setdiff1d(order, held)
        guess = _fit(features[kept], target[kept]).inplace_predict(features[held])
        errors += [abs(math.exp(g - t) - 1) for g, t in zip(guess, target[held], strict=True)]
    return GpuModel(
        booster=_fit(features, target),
        records=len(records),
        error=statistics.median(errors),
        roofline_error=statistics.median(abs(math.exp(-float(t)) - 1) for t in target),
        kinds=frozenset(record.kind for record in records),
    )


def read_records(path: Path) -> list[Record]:
    """Records of a file, or of all `*.jsonl` files of a folder.

    Raises:
        ValueError: a line is not a record; the message names file and line.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    found = []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                record = Record(**json.loads(line))
                if not (record.us > 0 and record.roofline_us > 0 and record.kind in _KINDS):
                    raise ValueError("times must be positive, the kind a known one")
            except (TypeError, ValueError) as error:
                raise ValueError(f"{file}:{number}: not a record: {error}") from None
            found.append(record)
    return found


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write `records`, one a line; the file appears whole."""
    text = "".join(json.dumps(dataclasses.asdict(record)) + "\n" for record in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _features(shape: Shape) -> list[float]:
    sizes = (shape.rows, shape.depth, shape.columns, shape.macs, shape.bytes)
    intensity = math.log2((shape.macs + 1) / max(1, shape.bytes))
    logs = [math.log2(max(1, size)) for size in sizes]
    kind = float(_KINDS.index(shape.kind))
    return [*logs, intensity, kind, float(shape.element_bytes), float(shape.reduces)]


def _fit(features: Any, target: Any) -> Any:
    """Small trees, slowly, on one thread: records are tens, not thousands."""
    import xgboost

    settings = {"max_depth": 3, "eta": 0.1, "min_child_weight": 1, "nthread": 1, "seed": 0}
    settings |= {"base_score": 0.0, "lambda": 1.0}
    data = xgboost.DMatrix(features, label=target)
    return xgboost.train(settings, data, num_boost_round=80)
