"""Artefact → callable. Everything is checked before any of the artefact's code is loaded."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hetero_tvm import runtime
from hetero_tvm.bundle import Manifest, read_manifest
from hetero_tvm.errors import BadInput, DeviceFailure
from hetero_tvm.frontend.tensor_spec import TensorSpec

_SOC_FILE = Path("/sys/devices/soc0/soc_id")  # Qualcomm kernels tell the SoC here


class Model:
    """A loaded artefact: call it with named tensors, get named arrays.

    Inputs are numpy arrays or anything that speaks DLPack; dtype and shape must be the
    manifest's, nothing is converted silently. Not thread-safe: one call at a time.
    """

    def __init__(self, manifest: Manifest, machine: Any, device: Any) -> None:
        self.manifest = manifest
        self.load_seconds = 0.0
        self._main = machine["main"]
        self._device = device

    @property
    def simulated(self) -> bool:
        """True where the artefact is made for a chip that this machine is not."""
        return self.manifest.npu_provider == "qnn" and platform.machine() == "x86_64"

    def __call__(self, *args: Any, **inputs: Any) -> dict[str, np.ndarray]:
        """Run once: `model(x=array)`, or positional tensors in the manifest's order."""
        if args:
            names = [spec.name for spec in self.manifest.inputs]
            if len(args) > len(names):
                raise BadInput(f"{len(args)} inputs given, the model has {len(names)}")
            inputs = {**dict(zip(names, args, strict=False)), **inputs}
        return self.run(inputs)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run once with inputs by name (names need not be Python identifiers)."""
        return self.fetch(self.call(self.feed(inputs)))

    def feed(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Check `inputs` against the manifest and put them into device memory."""
        import tvm

        specs = self.manifest.inputs
        unknown = sorted(set(inputs) - {spec.name for spec in specs})
        missing = [str(spec) for spec in specs if spec.name not in inputs]
        if unknown or missing:
            raise BadInput(
                "; ".join(
                    ([f"no input named {', '.join(unknown)}"] if unknown else [])
                    + ([f"missing {', '.join(missing)}"] if missing else [])
                )
                + f"; the model takes {', '.join(map(str, specs))}"
            )
        return [
            tvm.runtime.tensor(_checked(inputs[spec.name], spec), self._device) for spec in specs
        ]

    def call(self, tensors: list[Any]) -> Any:
        """Run on tensors that `feed` made; waits for the result."""
        import tvm

        try:
            result = self._main(*tensors)
            self._device.sync()
        except (tvm.error.InternalError, RuntimeError) as error:
            raise DeviceFailure(_last_line(error)) from error
        return result

    def fetch(self, result: Any) -> dict[str, np.ndarray]:
        """The outputs of `call` as arrays by name.

        An output whose parts two devices made side by side may lie permuted in memory: its array is
        a view, with strides that show it in the model's shape.
        """
        outputs = [result] if len(self.manifest.outputs) == 1 else list(result)
        if len(self.manifest.outputs) == 1 and not hasattr(result, "numpy"):
            outputs = list(result)
        found = zip(self.manifest.outputs, outputs, self.manifest.output_axes, strict=True)
        return {spec.name: _seen(np.asarray(tensor.numpy()), axes) for spec, tensor, axes in found}


def load(path: str | Path) -> Model:
    """Check and load the artefact at `path`.

    Raises:
        BadInput: missing, damaged, or made for another machine or version: says what to do.
        EnvironmentProblem: no OpenCL device, or a package that it needs is missing.
    """
    path = Path(path)
    manifest = read_manifest(path)
    started = time.perf_counter()
    _check_fits(path, manifest)
    runtime.load()
    import tvm
    from tvm import relax

    device = runtime.open_opencl()
    try:
        module = tvm.runtime.load_module(str(path.resolve()))
        runtime.prepare(module)
        machine = relax.VirtualMachine(module, device)
    except (tvm.error.InternalError, RuntimeError) as error:
        raise DeviceFailure(f"{path}: {_last_line(error)}") from error
    model = Model(manifest, machine, device)
    model.load_seconds = time.perf_counter() - started
    return model


def _check_fits(path: Path, manifest: Manifest) -> None:
    """Refuse an artefact of another machine, TVM or SoC before any of its code is loaded."""
    here = platform.machine()
    if manifest.host != here:
        raise BadInput(
            f"{path}: built for {manifest.host} host code, this machine is {here}; "
            f"rebuild it on {here}"
        )
    for package in ("apache-tvm", "apache-tvm-ffi"):
        built = manifest.versions.get(package)
        installed = runtime.package_version(package)
        if installed != built:
            raise BadInput(
                f"{path}: built with {package} {built}, {installed} is installed; "
                f"rebuild it, or pip install {package}=={built}"
            )
    here_soc = soc_id()
    if here_soc is not None and manifest.soc_ids and here_soc not in manifest.soc_ids:
        raise BadInput(
            f"{path}: its NPU part is compiled for {manifest.soc}, this device is SoC {here_soc} "
            f"(by {_SOC_FILE}); rebuild it with this device's --target"
        )


def soc_id() -> int | None:
    """Number of the Qualcomm SoC that this runs on, as its kernel gives it; None elsewhere."""
    try:
        return int(_SOC_FILE.read_text())
    except (OSError, ValueError):
        return None


def _checked(value: Any, spec: TensorSpec) -> np.ndarray:
    array = value if isinstance(value, np.ndarray) else None
    if array is None:
        array = np.from_dlpack(value) if hasattr(value, "__dlpack__") else np.asarray(value)
    if str(array.dtype) != spec.dtype:
        raise BadInput(f"input {spec.name}: dtype {array.dtype}, the model takes {spec.dtype}")
    if array.shape != spec.shape:
        raise BadInput(
            f"input {spec.name}: shape {list(array.shape)}, the model takes {list(spec.shape)}"
        )
    return np.asarray(array, order="C")  # ascontiguousarray would make a scalar 1-D


def _seen(array: np.ndarray, axes: tuple[int, ...] | None) -> np.ndarray:
    return array if axes is None else np.transpose(array, axes)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
