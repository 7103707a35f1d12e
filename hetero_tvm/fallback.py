"""The whole model for a CPU, as a function of the artefact that only a fallback calls.

Where there is no OpenCL device nothing of the plan can run. If the user allows it, ONNX Runtime's
CPU provider then runs the model itself: static and folded, as it was imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import EncodeError

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend.tensor_spec import TensorSpec as Border
from relay_passes.lower_npu import NpuRegion, TensorSpec

if TYPE_CHECKING:
    from hetero_tvm.bundle import Manifest
    from hetero_tvm.frontend import ImportedModel

_PREFIX = "whole_"
_MOST_BYTES = 2**31 - 1  # of a protocol buffer


def whole(model: ImportedModel) -> NpuRegion:
    """The model, under the name that its function `main` has here.

    Raises:
        BadInput: it is too large for one ONNX file.
    """
    try:
        content = model.onnx_model.SerializeToString()
    except (ValueError, EncodeError):
        content = b""
    if not content or len(content) > _MOST_BYTES:
        raise BadInput("--with-fallback carries the model as one ONNX file, and it is over 2 GB")
    inputs, outputs = (
        tuple(TensorSpec(spec.name, spec.dtype, spec.shape) for spec in side)
        for side in (model.inputs, model.outputs)
    )
    return NpuRegion(symbol_of("main"), content, inputs, outputs, ())


def named(region: NpuRegion, function: str) -> NpuRegion:
    """What `whole` gave, for the function of another name."""
    return dataclasses.replace(region, symbol=symbol_of(function))


def symbol_of(function: str) -> str:
    """What the whole model is called that does what `function` does."""
    return f"{_PREFIX}{function}"


def plain(manifest: Manifest) -> Manifest:
    """The manifest of what the CPU computes: its outputs lie in the model's own order."""
    return dataclasses.replace(
        manifest,
        output_axes=(None,) * len(manifest.outputs),
        variants=tuple(
            dataclasses.replace(one, output_axes=(None,) * len(one.outputs))
            for one in manifest.variants
        ),
    )


class CpuMachine:
    """The functions of an artefact as the virtual machine has them, computed on the CPU."""

    def __init__(self, module: Any, outputs: Callable[[str], Sequence[Border]]) -> None:
        """`outputs`: those of a function, by its name."""
        self._module = module
        self._outputs = outputs

    def __getitem__(self, name: str) -> Callable[..., Any]:
        import tvm

        function = self._module.get_function(symbol_of(name), query_imports=True)

        def call(*tensors: Any) -> list[Any]:
            results = [
                tvm.runtime.tensor(np.empty(spec.shape, spec.dtype), tvm.cpu())
                for spec in self._outputs(name)
            ]
            function(*tensors, *results)
            return results

        return call

    def set_instrument(self, _function: Any) -> None:
        """There are no calls to look at."""
        raise BadInput("a fallback on the CPU is one call: there is nothing in it to be recorded")
