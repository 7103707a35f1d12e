"""Inputs that a user gives a build, as the model gets them: float16 must not make them wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hetero_tvm.errors import WrongTensors
from hetero_tvm.frontend.tensor_spec import TensorSpec
from hetero_tvm.run import read_inputs


def read_sample(path: Path, inputs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """The arrays of `path`, an .npz file, by input name; it may leave inputs out.

    Raises:
        WrongTensors: the file cannot be read, or an array is no input of the model or is of another
            shape or type than that input.
    """
    arrays = read_inputs([str(path)], flag="--samples")
    known = {spec.name: spec for spec in inputs}
    for name, array in arrays.items():
        if name not in known:
            raise WrongTensors(
                f"--samples {path}: the model has no input {name!r}; it has {', '.join(known)}"
            )
        spec = known[name]
        if array.shape != tuple(spec.shape) or array.dtype.name != spec.dtype:
            raise WrongTensors(
                f"--samples {path}: {name} is {array.dtype.name} {list(array.shape)}, "
                f"and the model takes {spec.dtype} {list(spec.shape)}"
            )
    return arrays
