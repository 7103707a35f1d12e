"""The C++ runtime, from Python: loading it, its devices, its counters, its NPU modules.

The only file that knows where libraries lie. Importing it costs nothing; `load()` imports TVM.

Requires: `libhetero_runtime.so` built (`pip install .`).
Ensures:  after `load()`, TVM has the device `opencl` and loads modules of kinds `opencl` and
          `hetero_npu`; drivers and vendor libraries are opened only when first used.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hetero_tvm import crash_watch, errors

if TYPE_CHECKING:
    import numpy as np
    import tvm

logger = logging.getLogger(__name__)

_LIBRARY_VARIABLES = {
    "ort.library": "HETERO_ORT_LIB",
    "qnn.library": "HETERO_QNN_LIB",
    "qnn.backend": "HETERO_QNN_BACKEND",
}
_DEVICES = ("cpu", "gpu", "npu")  # by the numbers that compiled code uses

LIBRARY = Path(__file__).resolve().parent / "lib" / "libhetero_runtime.so"


class TensorSpec(Protocol):
    """One input or output of an NPU region."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> Sequence[int]: ...  # noqa: D102


class NpuRegion(Protocol):
    """One NPU region as the compiler makes it; `onnx` may also be a compiled EPContext model."""

    @property
    def symbol(self) -> str: ...  # noqa: D102
    @property
    def onnx(self) -> bytes: ...  # noqa: D102
    @property
    def inputs(self) -> Sequence[TensorSpec]: ...  # noqa: D102
    @property
    def outputs(self) -> Sequence[TensorSpec]: ...  # noqa: D102


@functools.cache
def load() -> None:
    """Load the runtime into this process. Further calls do nothing.

    Raises EnvironmentProblem when the library was not built or does not fit the installed TVM,
    BadInput when a variable that sets something for it has a value that is none.
    """
    if not LIBRARY.is_file():
        raise errors.RuntimeUnusable(
            f"{LIBRARY} is missing; build it: pip install . (or setup.py build_ext --inplace)"
        )
    import tvm
    from tvm_ffi.error import register_error

    for kind in (errors.EnvironmentProblem, errors.DeviceFailure):
        register_error(kind.__name__, kind)
    try:
        ctypes.CDLL(str(LIBRARY), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise errors.RuntimeUnusable(
            f"{LIBRARY} does not load with apache-tvm {tvm.__version__}: {error}; build it again: "
            "pip install --force-reinstall --no-deps ."
        ) from error
    try:
        for key, path in library_paths().items():
            logger.debug("%s: %s", key, path)
            # Who names a library in the environment means that one.
            if path is not None and not os.environ.get(_LIBRARY_VARIABLES.get(key, "")):
                _call("setting_set", key, str(path))
    except ValueError as error:  # a variable of the environment
        raise errors.BadInput(str(error)) from None
    import tvm_ffi

    # None in a library that was built before; a crash report then has Python's part alone.
    install = tvm_ffi.get_global_func("hetero_tvm.crash_report", allow_missing=True)
    if install is not None:
        crash_watch.arm_native(install)


def _call(name: str, *args: Any) -> Any:
    import tvm_ffi

    return tvm_ffi.get_global_func(f"hetero_tvm.{name}")(*args)


def library_paths() -> dict[str, Path | None]:
    """Return what the Python environment offers, by the runtime's setting."""
    return {
        "opencl.fallback_library": _distribution_file("intel-opencl-rt", "libintelocl.so"),
        "ort.library": _package_file("onnxruntime", "capi/libonnxruntime.so*"),
        "qnn.library": _package_file("onnxruntime_qnn", "libonnxruntime_providers_qnn.so"),
        "qnn.backend": _package_file("onnxruntime_qnn", "libQnnHtp.so"),
    }


def _distribution_file(distribution: str, name: str) -> Path | None:
    """Return an installed file of a distribution that is no Python package."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())).resolve() for file in files if file.name == name)
    return next((path for path in paths if path.is_file()), None)


def _package_file(package: str, pattern: str) -> Path | None:
    """Return a file inside an installed package, without importing it."""
    folder = _package_folder(package)
    return next(iter(sorted(folder.glob(pattern))), None) if folder else None


def _package_folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((Path(folder) for folder in folders), None)


def package_folder(package: str) -> Path:
    """Return the folder of an installed package, without importing it.

    Raises EnvironmentProblem when it is not installed.
    """
    folder = _package_folder(package)
    if folder is None:
        raise errors.MissingPackage(f"Python package {package} is not installed")
    return folder


def package_version(distribution: str) -> str | None:
    """Return the installed version of a distribution; None when it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def require(*, opencl: bool = False, ort: bool = False, qnn: bool = False) -> None:
    """Raise EnvironmentProblem, saying what to install, when one of these is missing.

    `opencl` opens the chosen device; the others look for installed packages only.
    """
    paths = library_paths()
    if ort and paths["ort.library"] is None:
        raise errors.MissingPackage("ONNX Runtime is not installed; pip install onnxruntime")
    if qnn and (paths["qnn.library"] is None or paths["qnn.backend"] is None):
        raise errors.MissingPackage(
            "onnxruntime-qnn is not installed; run: pip install 'hetero-tvm[qnn]'"
        )
    if opencl:
        open_opencl()


def configure(
    *,
    opencl_device: str | int | None = None,
    opencl_memory: str | None = None,
    cache_directory: Path | None = None,
) -> None:
    """Set what must be known before the OpenCL device is first used.

    `opencl_device`: an index into `opencl_devices()` or part of a device's or platform's name
    (else HETERO_OPENCL_DEVICE, else the best there is). `opencl_memory`: "svm", "dma_buf",
    "coarse_svm" or "buffer" (else HETERO_OPENCL_MEMORY, else the best that the device has).
    `cache_directory`: for compiled kernels (else HETERO_CACHE_DIR, else ~/.cache/hetero_tvm).

    Raises ValueError when the device is open already.
    """
    load()
    settings = {
        "opencl.device": opencl_device,
        "opencl.memory": opencl_memory,
        "cache.directory": cache_directory,
    }
    for key, value in settings.items():
        if value is not None:
            _call("setting_set", key, str(value))


@contextlib.contextmanager
def unpacked_npu_weights() -> Iterator[None]:
    """Have ONNX Runtime's CPU use weights as they lie in artefacts that are loaded in here.

    Else it keeps a copy of each that its products read faster.
    """
    load()
    _call("setting_set", "npu.packed", "0")
    try:
        yield
    finally:
        _call("setting_set", "npu.packed", "1")


@contextlib.contextmanager
def _values_of_variables() -> Iterator[None]:
    """What is wrong with values in here was set by whoever started the process; BadInput."""
    try:
        yield
    except ValueError as error:
        raise errors.BadInput(str(error)) from None


def select_device(device: str | int) -> None:
    """Choose the OpenCL device, as `configure` does."""
    configure(opencl_device=device)


def opencl_devices() -> list[dict[str, Any]]:
    """Return every OpenCL device: index, name, platform, type, half, memory, sizes, ..."""
    load()
    with _values_of_variables():
        return [dict(device) for device in _call("opencl_devices")]


def open_opencl() -> tvm.runtime.Device:
    """Open the chosen OpenCL device and return it.

    Raises EnvironmentProblem, saying what to install, when there is none; BadInput when a variable
    that sets something for it has a value that is none.
    """
    load()
    import tvm

    with _values_of_variables():
        _call("opencl_open")
    return tvm.device("opencl", 0)


def device_name() -> str:
    """Return the name of the OpenCL device in use; opens it when needed."""
    return str(open_opencl().device_name)


def gpu_wait() -> None:
    """Wait until every GPU kernel launched so far is done; costs nothing when none is pending."""
    load()
    _call("gpu_wait")


def wait(waiter: str, on: str) -> None:
    """Let what `waiter` begins after this call see what `on` was given before it.

    Both are "cpu", "gpu" or "npu". Blocks this thread when the waiter is the CPU, or the GPU
    waiting for the NPU; a waiting NPU waits by itself. Raises what an NPU region failed with when
    it waits for the NPU, once.
    """
    load()
    for name in (waiter, on):
        if name not in _DEVICES:
            raise ValueError(f"unknown device {name!r}; known: {', '.join(_DEVICES)}")
    _call("wait", _DEVICES.index(waiter), _DEVICES.index(on))


def sync() -> None:
    """Wait for all devices; then every tensor may be read."""
    load()
    _call("sync")


def whole_call(function: Any, *args: Any) -> Any:
    """Call a compiled function and wait for all devices; its result may be read.

    When it raises, nothing that it gave to the devices is still to come. Where NPU work never came
    back within HETERO_DEVICE_LIMIT_S it is called once more, and the CPU does that work.
    """
    return _call("whole_call", function, *args)


def load_module(path: Path) -> tvm.runtime.Module:
    """Return the module in an artefact; while somebody has it, the same for the same file.

    TVM's own `load_module` keeps what it loaded until the process ends, with its NPU sessions.
    """
    load()
    return _call("load_module", str(path))


def held_bytes() -> int:
    """Return how much memory the OpenCL device has given and not got back."""
    load()
    return int(_call("opencl_held_bytes"))


def configure_sync(
    *,
    implicit_waits: bool | None = None,
    fast: bool | None = None,
    poll_cpu: bool | None = None,
    gpu_share: float | None = None,
) -> None:
    """Choose how devices wait for each other, at any time when nothing is running.

    `implicit_waits`: an NPU call waits for the GPU and for its own end (else
    HETERO_IMPLICIT_WAITS). `fast`: sleep and poll instead of clFinish (else HETERO_FAST_SYNC).
    `poll_cpu`: poll too where OpenCL runs on this processor (else HETERO_POLL_CPU). `gpu_share`:
    of the GPU's time that kernels may take, above 0 and at most 1 (else HETERO_GPU_SHARE).
    """
    load()
    settings = {
        "sync.implicit_waits": implicit_waits,
        "sync.fast": fast,
        "sync.poll_cpu": poll_cpu,
    }
    for key, value in settings.items():
        if value is not None:
            _call("setting_set", key, str(int(value)))
    if gpu_share is not None:
        _call("setting_set", "gpu.share", str(gpu_share))


def soc_id() -> int | None:
    """Return the number of this machine's SoC (HETERO_SOC_ID, else its kernel's); None elsewhere.

    Raises BadInput where the variable is no number.
    """
    load()
    with _values_of_variables():
        found = int(_call("soc_id"))
    return None if found < 0 else found


def configure_npu(*, target: str | None, unfit: str | None, allow_fallback: bool) -> None:
    """Say which target of the next artefact this machine is, and what to do where it is none.

    `target`: None leaves the choice to the runtime. `unfit`: why its NPU part must not be used.
    `allow_fallback`: what stands in for it, or for the GPU, may then be used.
    """
    load()
    settings = {
        "npu.target": target or "",
        "npu.unfit": unfit or "",
        "fallback.allow": str(int(allow_fallback)),
    }
    for key, value in settings.items():
        _call("setting_set", key, value)


def fallbacks() -> list[str]:
    """Return what ran elsewhere than it was built for in this process, and why: a line each."""
    load()
    return [str(line) for line in json.loads(str(_call("fallbacks")))]


def tell_fallback(what: str) -> None:
    """Say on standard error what runs elsewhere than it was built for, and keep it."""
    load()
    _call("fallback_tell", what)


def view(tensor: tvm.runtime.Tensor, byte_offset: int, shape: Sequence[int]) -> tvm.runtime.Tensor:
    """Return `shape` at `byte_offset` in a dense tensor's memory, as a tensor that keeps it alive.

    Its data pointer is advanced and its own byte offset 0, as compiled kernels want it. Raises
    ValueError when it does not lie inside.
    """
    load()
    from tvm_ffi import Shape

    return _call("view", tensor, byte_offset, Shape(tuple(shape)))


def view_as(
    tensor: tvm.runtime.Tensor, byte_offset: int, shape: Sequence[int], dtype: str
) -> tvm.runtime.Tensor:
    """As `view`, of any type: `tensor` is bytes that hold many."""
    load()
    import tvm_ffi

    return _call("view_as", tensor, byte_offset, tvm_ffi.Shape(tuple(shape)), tvm_ffi.dtype(dtype))


def map_weights(path: Path, *, offset: int, nbytes: int) -> tvm.runtime.Tensor | None:
    """Map bytes of the file at `path` as one tensor of bytes that kernels may read; None: cannot.

    `offset` is a multiple of the page size. Nobody may write to the tensor, nor look at it from
    here; use `view_as`. The device must take pages that it has not made (fine-grain system SVM, or
    buffers over the process's memory), at most as much as it gives at once in a buffer.
    """
    load()
    return _call("weights_map", str(path), offset, nbytes)


def counters() -> dict[str, int]:
    """Return what the runtime did since the process began or `reset_counters()`."""
    load()
    return {str(name): int(value) for name, value in _call("counters_read").items()}


def reset_counters() -> None:
    """Set every counter to zero."""
    load()
    _call("counters_reset")


def npu_module(
    regions: Sequence[NpuRegion],
    provider: str,
    options: Mapping[str, str],
    contexts: Mapping[str, bytes] | None = None,
    substitutes: Sequence[bytes] = (),
    *,
    targets: Sequence[Mapping[str, Any]] = (),
    binaries: Mapping[str, Sequence[bytes]] | None = None,
    standby: Sequence[NpuRegion] = (),
) -> tvm.runtime.Module:
    """Make a module whose functions are the regions' symbols: `symbol(*inputs, *outputs)`.

    `provider` "cpu" takes the option `threads`; "qnn" takes the QNN provider's options, among them
    `soc_model`; "null" copies inputs to outputs, after `latency_us`, or fails with `fail`. A call
    returns before the outputs are written, except where nobody could wait for them: see `wait`.
    `contexts` are the files, by name, in which compiled regions have their binaries; the runtime
    writes them to the cache directory when the first region is loaded.
    `substitutes`: for each region, or none, a plain ONNX model that does the same on the CPU when
    the NPU fails, or where it cannot be used and the user allows that; the stand-in needs none, its
    models are such.
    `targets`: what the regions are compiled for, as `runtime/src/npu/targets.h` describes it; with
    several, `binaries` has one for each of them of every region, by its symbol.
    `standby`: plain ONNX models that are functions too, prepared only when they are called.
    Raises ValueError when a description is inconsistent.
    """
    from hetero_tvm import npu_pieces, npu_weights

    load()
    binaries = binaries or {}
    own = [region.onnx for region in regions if region.symbol not in binaries]
    is_plain = provider == "cpu"  # else weights are compiled in
    plain = [*(own if is_plain else ()), *(one.onnx for one in standby), *substitutes]
    plain, weights = npu_weights.share(plain)
    models = plain if is_plain else [*own, *plain]
    files = {npu_weights.FILE: weights} if weights else {}
    pieces, numbers = npu_pieces.split(binaries)
    header: dict[str, Any] = {
        "regions": [
            {
                "symbol": region.symbol,
                "provider": provider,
                "options": {key: str(value) for key, value in options.items()},
                "inputs": [_tensor(spec) for spec in region.inputs],
                "outputs": [_tensor(spec) for spec in region.outputs],
                **({"substitute": True} if substitutes and not is_plain else {}),
                **({"binaries": numbers[region.symbol]} if region.symbol in numbers else {}),
                **_outside(region),
            }
            for region in regions
        ]
        + [
            {
                "symbol": region.symbol,
                "provider": "cpu",
                "options": {},
                "inputs": [_tensor(spec) for spec in region.inputs],
                "outputs": [_tensor(spec) for spec in region.outputs],
                "standby": True,
            }
            for region in standby
        ]
    }
    contexts = contexts or {}
    named = {"files": list(files), "contexts": list(contexts), "targets": list(targets)}
    header |= {key: value for key, value in named.items() if value}
    if pieces:
        header["pieces"] = [str(number) for number in range(len(pieces))]
    contents = [*models, *files.values(), *contexts.values(), *pieces]
    return _call("npu_module_create", json.dumps(header), contents)


def _outside(region: NpuRegion) -> dict[str, Any]:
    """Its weights that lie in the artefact; see `map_npu_weights`."""
    weights = getattr(region, "outside", ())
    return {"weights": [{**_tensor(w), "offset": w.offset} for w in weights]} if weights else {}


def map_npu_weights(module: tvm.runtime.Module, path: Path, *, offset: int, nbytes: int) -> None:
    """Let NPU regions of `module` and its imports read weights at `offset` of the file at `path`.

    The file is mapped, once for a module however often this is called; regions without weights
    there need no call. `offset` is a multiple of the page size. Raises EnvironmentProblem when the
    file cannot be mapped.
    """
    load()
    _call("npu_weights_map", module, str(path), offset, nbytes)


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": [int(size) for size in spec.shape]}


def prepare(module: tvm.runtime.Module) -> None:
    """Build every OpenCL program and NPU session of `module` and its imports now."""
    load()
    _call("module_prepare", module)


def host_view(tensor: tvm.runtime.Tensor) -> np.ndarray:
    """Return a tensor's own memory as an array, without a copy; waits for GPU and NPU first.

    Valid until the next kernel or region that uses the tensor; keeps the tensor alive.
    """
    load()
    import numpy as np

    sync()
    return np.asarray(_Memory(tensor, np.dtype(str(tensor.dtype)).str))


class _Memory:
    """What numpy asks of memory that is not its own."""

    def __init__(self, tensor: tvm.runtime.Tensor, typestr: str) -> None:
        self.tensor = tensor
        self.__array_interface__ = {
            "version": 3,
            "data": (_call("tensor_address", tensor), False),
            "typestr": typestr,
            "shape": tuple(int(size) for size in tensor.shape),
        }
