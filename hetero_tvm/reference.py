"""What the model gives on seeded inputs, recorded at its build, for a device to be held against.

Of a large output only evenly spaced elements are kept: enough to see wrong numbers by the same
measures as with all of them, in kilobytes.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hetero_tvm.errors import ArtefactUnreadable, ModelUnreadable, ReferenceRefuses
from hetero_tvm.frontend.random_inputs import InputRange, draw_inputs
from hetero_tvm.output_error import OutputError, Tolerance, compare

SEED = 0
_MOST_ELEMENTS = 4096  # of one output


def compute(model: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime's CPU provider computes from the original model, outputs by name."""
    import onnxruntime

    if not model.is_file():
        raise ModelUnreadable(f"{model}: no such file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common base
        raise ReferenceRefuses(
            f"{model}: ONNX Runtime cannot run it on these inputs: {error}"
        ) from None


def record(model: Path, ranges: Sequence[InputRange]) -> dict[str, Any]:
    """ONNX Runtime's outputs of `model` on inputs drawn from `ranges`, as plain data for JSON."""
    outputs = compute(model, draw_inputs(tuple(ranges), SEED))
    return {"seed": SEED, "outputs": described(outputs)}


def described(outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """`outputs` as plain data, large ones by a sample: what `check` takes as its "outputs"."""
    return [
        {
            "name": name,
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "values": base64.b64encode(zlib.compress(_sample(array).tobytes())).decode(),
        }
        for name, array in outputs.items()
    ]


def inputs(reference: Mapping[str, Any], ranges: Sequence[InputRange]) -> dict[str, np.ndarray]:
    """The inputs that the recorded outputs belong to."""
    return draw_inputs(tuple(ranges), int(reference["seed"]))


def check(
    outputs: Mapping[str, np.ndarray], reference: Mapping[str, Any], tolerance: Tolerance
) -> list[OutputError]:
    """`outputs` against what was recorded, output by output.

    Raises:
        BadInput: the record is damaged, or of other outputs.
    """
    wanted, found = {}, {}
    for entry in reference["outputs"]:
        name, shape = entry["name"], tuple(entry["shape"])
        if name not in outputs:
            raise ArtefactUnreadable(
                f"the recorded outputs have {name}, the artefact has not; rebuild it"
            )
        try:
            raw = zlib.decompress(base64.b64decode(entry["values"]))
            wanted[name] = np.frombuffer(raw, np.dtype(entry["dtype"]))
        except (ValueError, TypeError, zlib.error) as error:
            raise ArtefactUnreadable(f"the recorded output {name} is damaged: {error}") from None
        # Of another shape: as it is, so that the comparison fails by it.
        array = outputs[name]
        found[name] = _sample(array) if array.shape == shape else array
    return compare(found, wanted, tolerance)


def _sample(array: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(array).ravel()
    return flat[:: max(1, -(-flat.size // _MOST_ELEMENTS))]
