"""The C++ runtime, from Python: loading it, its devices, its counters, its NPU modules.

The only file that knows where libraries lie. Importing it costs nothing; `load()` imports TVM.

Requires: `libhetero_runtime.so` built (`pip install .`).
Ensures:  after `load()`, TVM has the device `opencl` and loads modules of kinds `opencl` and
          `hetero_npu`; drivers and vendor libraries are opened only when first used.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hetero_tvm import errors

if TYPE_CHECKING:
    import numpy as np
    import tvm

logger = logging.getLogger(__name__)

LIBRARY = Path(__file__).resolve().parent / "lib" / "libhetero_runtime.so"


class TensorSpec(Protocol):
    """One input or output of an NPU region."""

    name: str
    dtype: str
    shape: Sequence[int]


class NpuRegion(Protocol):
    """One NPU region as the compiler makes it; `onnx` may also be a compiled EPContext model."""

    symbol: str
    onnx: bytes
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]


@functools.cache
def load() -> None:
    """Load the runtime into this process. Further calls do nothing.

    Raises EnvironmentProblem when the library was not built or does not fit the installed TVM.
    """
    if not LIBRARY.is_file():
        raise errors.EnvironmentProblem(
            f"{LIBRARY} is missing; build it: pip install . (or python setup.py build_ext --inplace)"
        )
    import tvm
    from tvm_ffi.error import register_error

    for kind in (errors.EnvironmentProblem, errors.DeviceFailure):
        register_error(kind.__name__, kind)
    try:
        ctypes.CDLL(str(LIBRARY), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise errors.EnvironmentProblem(
            f"{LIBRARY} does not load with apache-tvm {tvm.__version__}: {error}; build it again: "
            "pip install --force-reinstall --no-deps ."
        ) from error
    for key, path in _library_paths().items():
        logger.debug("%s: %s", key, path)
        if path is not None:
            _call("setting_set", key, str(path))


def _call(name: str, *args: Any) -> Any:
    import tvm_ffi

    return tvm_ffi.get_global_func(f"hetero_tvm.{name}")(*args)


def _library_paths() -> dict[str, Path | None]:
    """Return what the Python environment offers, by the runtime's setting."""
    return {
        "opencl.fallback_library": _first(_prefix_libraries("libintelocl.so")),
        "ort.library": _first(_package_files("onnxruntime", "capi/libonnxruntime.so*")),
        "qnn.library": _first(
            _package_files("onnxruntime_qnn", "libonnxruntime_providers_qnn.so")
        ),
        "qnn.backend": _first(_package_files("onnxruntime_qnn", "libQnnHtp.so")),
    }


def _prefix_libraries(name: str) -> Iterable[Path]:
    """Yield `name` where pip puts data files: the environment's `lib`, or the user's."""
    import site

    for prefix in (sys.prefix, sys.base_prefix, site.getuserbase() or ""):
        path = Path(prefix) / "lib" / name
        if path.is_file():
            yield path


def _package_files(package: str, pattern: str) -> Iterable[Path]:
    """Yield files of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        yield from sorted(Path(folder).glob(pattern))


def _first(paths: Iterable[Path]) -> Path | None:
    return next(iter(paths), None)


def configure(
    *, opencl_device: str | int | None = None, opencl_memory: str | None = None
) -> None:
    """Choose the OpenCL device before it is first used; wins over the environment variables.

    `opencl_device`: an index into `opencl_devices()` or part of a device's or platform's name
    (else HETERO_OPENCL_DEVICE). `opencl_memory`: "svm", "coarse_svm" or "buffer" (else
    HETERO_OPENCL_MEMORY, else the best that the device has).
    """
    load()
    if opencl_device is not None:
        _call("setting_set", "opencl.device", str(opencl_device))
    if opencl_memory is not None:
        _call("setting_set", "opencl.memory", opencl_memory)


def opencl_devices() -> list[dict[str, Any]]:
    """Return every OpenCL device: index, name, platform, type, half, memory, sizes, ..."""
    load()
    return [dict(device) for device in _call("opencl_devices")]


def open_opencl() -> tvm.runtime.Device:
    """Open the chosen OpenCL device and return it.

    Raises EnvironmentProblem, saying what to install, when there is none.
    """
    load()
    import tvm

    _call("opencl_open")
    return tvm.device("opencl", 0)


def gpu_wait() -> None:
    """Wait until every GPU kernel launched so far is done; costs nothing when none is pending."""
    load()
    _call("gpu_wait")


def counters() -> dict[str, int]:
    """Return what the runtime did since the process began or `reset_counters()`."""
    load()
    return {str(name): int(value) for name, value in _call("counters_read").items()}


def reset_counters() -> None:
    """Set every counter to zero."""
    load()
    _call("counters_reset")


def npu_module(
    regions: Sequence[NpuRegion], provider: str, options: Mapping[str, str]
) -> tvm.runtime.Module:
    """Make a module whose functions are the regions' symbols: `symbol(*inputs, *outputs)`.

    `provider` "cpu" takes the option `threads`; "qnn" takes the QNN provider's options, among them
    `soc_model`. Raises ValueError when a description is inconsistent.
    """
    load()
    header = {
        "regions": [
            {
                "symbol": region.symbol,
                "provider": provider,
                "options": {key: str(value) for key, value in options.items()},
                "inputs": [_tensor(spec) for spec in region.inputs],
                "outputs": [_tensor(spec) for spec in region.outputs],
            }
            for region in regions
        ]
    }
    return _call("npu_module_create", json.dumps(header), [region.onnx for region in regions])


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": [int(size) for size in spec.shape]}


def prepare(module: tvm.runtime.Module) -> None:
    """Build every OpenCL program and NPU session of `module` and its imports now."""
    load()
    _call("module_prepare", module)


def host_view(tensor: tvm.runtime.Tensor) -> np.ndarray:
    """Return a tensor's own memory as an array, without a copy.

    Valid until the next kernel or region that uses the tensor, and as long as the tensor lives.
    """
    load()
    import numpy as np

    gpu_wait()
    dtype = np.dtype(str(tensor.dtype))
    count = int(np.prod(tensor.shape, dtype=np.int64))
    address = _call("tensor_address", tensor)
    block = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    block._keeps_alive = tensor
    return np.frombuffer(block, dtype=dtype, count=count).reshape(tensor.shape)
