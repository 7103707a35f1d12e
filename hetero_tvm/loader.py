"""Artefact → callable. Everything is checked before any of the artefact's code is loaded."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from hetero_tvm import (
    crash_watch,
    fallback,
    first_load,
    memory,
    memory_limit,
    npu_targets,
    recording,
    runtime,
    signing,
)
from hetero_tvm.bundle import Manifest, Variant, read_manifest
from hetero_tvm.device_fit import check_qnn
from hetero_tvm.device_os import this_os
from hetero_tvm.errors import (
    BadInput,
    DeviceLacks,
    EnvironmentProblem,
    LengthNotBuilt,
    RunFailed,
    WrongKindOfModel,
    WrongMachine,
    WrongTensors,
)
from hetero_tvm.frontend.tensor_spec import TensorSpec
from hetero_tvm.lengths import LengthRules, Piece, Way, filled, part, way, with_length
from hetero_tvm.recording import Recording
from hetero_tvm.surroundings import Surroundings
from hetero_tvm.weights_layout import read_weights

Around = Callable[[str], AbstractContextManager[None]]


def nothing_around(_function: str) -> AbstractContextManager[None]:
    """The default of `Model.call`."""
    return nullcontext()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Program:
    """One function of the artefact and its border."""

    name: str
    call: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    output_axes: tuple[tuple[int, ...] | None, ...]


@dataclasses.dataclass(frozen=True)
class Fed:
    """Inputs in device memory, a list of tensors for each piece of the way that they go."""

    way: Way | None  # None: the artefact has one function, of one shape
    tensors: list[list[Any]]


@dataclasses.dataclass(frozen=True)
class Results:
    """What the functions gave for each piece of `way`."""

    way: Way | None
    values: list[Any]


class Model:
    """A loaded artefact: call it with named tensors, get named arrays.

    Inputs are numpy arrays or anything that speaks DLPack; dtype and shape must be the
    manifest's, nothing is converted silently. An artefact built for several lengths takes inputs
    of each, and of others where that was proven at build time. Not thread-safe: one call at a time.
    """

    def __init__(self, manifest: Manifest, machine: Any, device: Any) -> None:
        self.manifest = manifest
        self.load_seconds = 0.0
        self._device = device
        self._machine = machine
        self._programs: dict[int | None, _Program] = {
            variant.length: _program(variant, variant.function, machine)
            for variant in manifest.variants
        } or {None: _program(manifest, "main", machine)}
        self._predicted_us = {
            variant.length: float(variant.plan["predicted_us"]) for variant in manifest.variants
        }
        self._ways: dict[int, Way] = {}  # of every length that was asked for so far

    @property
    def simulated(self) -> bool:
        """True where the artefact is made for a chip that this machine is not."""
        return is_simulated(self.manifest)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that it was built for; none without `--length`."""
        return tuple(variant.length for variant in self.manifest.variants)

    def __call__(self, *args: Any, **inputs: Any) -> dict[str, np.ndarray]:
        """Run once: `model(x=array)`, or positional tensors in the manifest's order."""
        if args:
            names = [spec.name for spec in self.manifest.inputs]
            if len(args) > len(names):
                raise WrongTensors(f"{len(args)} inputs given, the model has {len(names)}")
            inputs = {**dict(zip(names, args, strict=False)), **inputs}
        return self.run(inputs)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run once with inputs by name (names need not be Python identifiers)."""
        return self.fetch(self.call(self.feed(inputs)))

    def feed(self, inputs: Mapping[str, Any]) -> Fed:
        """Check `inputs` against the manifest and put them into device memory."""
        specs = self.manifest.inputs
        unknown = sorted(set(inputs) - {spec.name for spec in specs})
        missing = [self._shown(spec) for spec in specs if spec.name not in inputs]
        if unknown or missing:
            raise WrongTensors(
                "; ".join(
                    ([f"no input named {', '.join(unknown)}"] if unknown else [])
                    + ([f"missing {', '.join(missing)}"] if missing else [])
                )
                + f"; the model takes {', '.join(map(self._shown, specs))}"
            )
        arrays = {spec.name: _array(inputs[spec.name]) for spec in specs}
        rules = self.manifest.lengths
        if rules is None:
            tensors = [self._tensor(_checked(arrays[spec.name], spec)) for spec in specs]
            return Fed(None, [tensors])
        size = length_of(arrays, rules)
        way = self._ways.get(size)
        if way is None:
            way = self._ways[size] = self._way(size)
        for spec in specs:
            shape = with_length(spec.shape, rules.input_axes.get(spec.name, ()), size)
            _checked(arrays[spec.name], dataclasses.replace(spec, shape=shape))
        return Fed(way, [self._piece(arrays, piece, rules) for piece in way])

    def _piece(
        self, arrays: Mapping[str, np.ndarray], piece: Piece, rules: LengthRules
    ) -> list[Any]:
        """Tensors of one piece, filled up where it is shorter than its function."""
        tensors = []
        for spec in self._programs[piece.length].inputs:
            array = arrays[spec.name]
            axes = rules.input_axes.get(spec.name, ())
            if axes:
                array = part(array, axes, piece.start, piece.size)
                array = filled(array, axes, piece.length, rules.fill[spec.name])
            tensors.append(self._tensor(array))
        return tensors

    def _tensor(self, array: np.ndarray) -> Any:
        import tvm

        # ascontiguousarray would make a scalar 1-D
        return tvm.runtime.tensor(np.asarray(array, order="C"), self._device)

    def _way(self, size: int) -> Way:
        """How inputs of a length run, by the plans' predictions."""
        rules = self.manifest.lengths
        assert rules is not None
        found = way(size, self._predicted_us, padding=rules.padding, chunking=rules.chunking)
        if found is not None:
            return found
        built = ", ".join(map(str, self.lengths))
        if size > self.lengths[-1] and rules.padding:
            why = f"cutting longer inputs is not offered: {rules.chunking_words}"
        else:
            why = f"filling up others is not offered: {rules.padding_words}"
        raise LengthNotBuilt(f"length {size}: built are {built}; {why}; add it to --length")

    def _shown(self, spec: TensorSpec) -> str:
        """An input as the user gives it: `input_ids=1xL:int64`."""
        rules = self.manifest.lengths
        axes = rules.input_axes.get(spec.name, ()) if rules else ()
        dims = ["L" if axis in axes else str(dim) for axis, dim in enumerate(spec.shape)]
        return f"{spec.name}={'x'.join(dims) or 'scalar'}:{spec.dtype}"

    def instrument(self, function: Any | None) -> None:
        """Have TVM's virtual machine call `function` around each of its calls; None: no more."""
        self._machine.set_instrument(function)

    def call(self, fed: Fed, around: Around = nothing_around) -> Results:
        """Run on what `feed` gave; waits for the result.

        `around`: a context for each function of the artefact that runs, by its name.
        """
        import tvm

        lengths = [None] if fed.way is None else [piece.length for piece in fed.way]
        values = []
        try:
            for length, tensors in zip(lengths, fed.tensors, strict=True):
                program = self._programs[length]
                with around(program.name):
                    values.append(self._called(program.call, tensors))
        except (tvm.error.InternalError, RuntimeError) as error:
            raise RunFailed(last_line(error)) from error
        return Results(fed.way, values)

    def _called(self, function: Any, tensors: list[Any]) -> Any:
        """What `function` gives, once all of its work is done."""
        return runtime.whole_call(function, *tensors)

    def measure(self, fed: Fed, runs: int) -> tuple[Results, list[float]]:
        """`call`, `runs` times (at least once): the last results, the milliseconds of each run."""
        times = []
        for _ in range(runs):
            started = time.perf_counter()
            results = self.call(fed)
            times.append((time.perf_counter() - started) * 1e3)
        return results, times

    def record(self, fed: Fed, runs: int) -> Recording:
        """`call`, `runs` times, recorded by the runtime; one more before that sets it up."""

        def once(around: Around) -> None:
            self.call(fed, around)

        return recording.record(self, once, runs)

    @property
    def surroundings(self) -> Surroundings:
        """The machine that it runs on."""
        return Surroundings()

    def counters(self) -> dict[str, int]:
        """What the runtime did where this model runs, since `reset_counters`."""
        return runtime.counters()

    def reset_counters(self) -> None:
        """Set every counter to zero."""
        runtime.reset_counters()

    def fallbacks(self) -> list[str]:
        """What runs elsewhere than it was built for where this model runs, and why."""
        return runtime.fallbacks()

    def gpus(self) -> list[dict[str, Any]]:
        """Every OpenCL device where this model runs, as `runtime.opencl_devices` describes them."""
        return runtime.opencl_devices()

    def fetch(self, results: Results) -> dict[str, np.ndarray]:
        """The outputs of `call` as arrays by name.

        An output whose parts two devices made side by side may lie permuted in memory: its array is
        a view, with strides that show it in the model's shape. So is one of filled-up inputs: it
        shows the elements that are real.
        """
        if results.way is None:
            return _arrays(self._programs[None], results.values[0])
        rules = self.manifest.lengths
        assert rules is not None
        pieces = []
        for piece, value in zip(results.way, results.values, strict=True):
            found = _arrays(self._programs[piece.length], value)
            axes = rules.output_axes
            pieces.append({n: part(a, axes.get(n, ()), 0, piece.size) for n, a in found.items()})
        if len(pieces) == 1:
            return pieces[0]
        return {
            name: np.concatenate([found[name] for found in pieces], axes[0])
            for name, axes in rules.output_axes.items()
        }


def is_simulated(manifest: Manifest) -> bool:
    """Whether this machine stands in for the chip that an artefact is made for."""
    return manifest.npu_provider == "qnn" and platform.machine() == "x86_64"


def _program(border: Manifest | Variant, name: str, machine: Any) -> _Program:
    return _Program(
        name=name,
        call=machine[name],
        inputs=border.inputs,
        outputs=border.outputs,
        output_axes=border.output_axes,
    )


def _arrays(program: _Program, result: Any) -> dict[str, np.ndarray]:
    outputs = [result] if len(program.outputs) == 1 else list(result)
    if len(program.outputs) == 1 and not hasattr(result, "numpy"):
        outputs = list(result)
    found = zip(program.outputs, outputs, program.output_axes, strict=True)
    return {spec.name: _seen(np.asarray(tensor.numpy()), axes) for spec, tensor, axes in found}


@dataclasses.dataclass(frozen=True)
class Opened:
    """An artefact whose code is loaded."""

    manifest: Manifest
    machine: Any
    device: Any
    load_seconds: float
    weights: tuple[Any, ...] = ()  # tensors on the device, where they are not in the library

    def weights_of(self, function: str) -> list[Any]:
        """What `function` takes behind its inputs."""
        described = self.manifest.weights
        if described is None:
            return []
        return [self.weights[index] for index in described.of_function[function]]


def load(path: str | Path, *, allow_fallback: bool = False, npu_target: str | None = None) -> Model:
    """Check and load the artefact at `path`.

    Args:
        path: the artefact.
        allow_fallback: where its NPU part or any OpenCL device is missing, what stands in for it
            may compute in its place, if it carries that (`build --with-fallback`); this is said on
            standard error and by `Model.fallbacks`. So does HETERO_ALLOW_FALLBACK=1.
        npu_target: of an artefact for several targets, the one to simulate, by name; None: the one
            that this machine is, the first where it is no such device.

    Raises:
        BadInput: missing, damaged, or made for another machine or version: says what to do; also
            a language model, which is more than a function.
        EnvironmentProblem: no OpenCL device, or a package that it needs is missing.
    """
    opened = open_artefact(Path(path), allow_fallback=allow_fallback, npu_target=npu_target)
    if opened.manifest.llm is not None:
        raise WrongKindOfModel(f"{path}: a language model; use hetero_tvm.load_llm")
    model = Model(opened.manifest, opened.machine, opened.device)
    model.load_seconds = opened.load_seconds
    return model


def open_artefact(
    path: Path, *, allow_fallback: bool = False, npu_target: str | None = None
) -> Opened:
    """Check the artefact at `path`, load its code and prepare its kernels; as `load`."""
    manifest = read_manifest(path)
    provider = manifest.npu_provider if manifest.npu_regions else "none"
    crash_watch.note(f"artefact: {path}, for {manifest.target}; its NPU: {provider}")
    signing.check_trusted(path)
    started = time.perf_counter()
    allowed = allow_fallback or os.environ.get("HETERO_ALLOW_FALLBACK") == "1"
    manifest = _on_this_npu(path, manifest, allowed, npu_target)
    import tvm
    from tvm import relax

    try:
        device = runtime.open_opencl()
    except EnvironmentProblem as error:
        return _on_cpu(path, manifest, allowed, error, started)
    memory_limit.check_load(path, manifest, runtime.held_bytes())
    here = first_load.Here(device=str(device.device_name), driver=str(device.driver_version))
    first_load.check_kernels(path, manifest, here)
    try:
        module = runtime.load_module(path.resolve())
        if (part := manifest.weights) is not None:
            runtime.map_npu_weights(module, path, offset=part.offset, nbytes=part.nbytes)
        runtime.prepare(module)
        machine = relax.VirtualMachine(module, device)
        weights = _weights(path, manifest, device)
    except (tvm.error.InternalError, RuntimeError) as error:
        raise RunFailed(f"{path}: {last_line(error)}") from error
    return Opened(manifest, machine, device, time.perf_counter() - started, weights)


def _on_this_npu(path: Path, manifest: Manifest, allowed: bool, wanted: str | None) -> Manifest:
    """Check that it fits; the manifest as the target is told of it that this machine is."""
    check_fits(path, manifest)
    runtime.load()
    unfit, target = None, None
    try:
        check_qnn(path, manifest)
        if manifest.targets:
            wanted = wanted or os.environ.get("HETERO_NPU_TARGET") or None
            target = npu_targets.require(str(path), manifest.targets, runtime.soc_id(), wanted)
        elif wanted is not None:
            raise BadInput(f"{path}: has no NPU part that is compiled for a target")
    except (WrongMachine, DeviceLacks) as error:
        if not manifest.fallback:
            raise
        if not allowed:
            raise type(error)(f"{error}; or run it with --allow-fallback") from None
        unfit = str(error)
    name = None if target is None else target.name
    runtime.configure_npu(target=name, unfit=unfit, allow_fallback=allowed)
    return manifest if target is None else manifest.on(target)


def _on_cpu(
    path: Path, manifest: Manifest, allowed: bool, why: EnvironmentProblem, started: float
) -> Opened:
    """The artefact where there is no OpenCL device: the model that it carries for a CPU."""
    if not manifest.fallback:
        raise why
    if not allowed:
        raise type(why)(f"{why}; or run it on the CPU with --allow-fallback") from why
    import tvm

    programs = {one.function: one.outputs for one in manifest.variants} or {
        "main": manifest.outputs
    }
    try:
        module = runtime.load_module(path.resolve())
    except (tvm.error.InternalError, RuntimeError) as error:
        raise RunFailed(f"{path}: {last_line(error)}") from error
    machine = fallback.CpuMachine(module, programs.__getitem__)
    runtime.tell_fallback(f"ONNX Runtime computes the model on the CPU: {why}")
    seconds = time.perf_counter() - started
    return Opened(fallback.plain(manifest), machine, tvm.cpu(), seconds)


def _weights(path: Path, manifest: Manifest, device: Any) -> tuple[Any, ...]:
    """The weights as tensors of the device, on the mapped file where it can; None: the NPU's alone.

    Elsewhere each is read once, views as weights of their own.
    """
    import tvm

    part = manifest.weights
    if part is None:
        return ()
    of_functions = {n for taken in part.of_function.values() for n in taken}
    mapped = runtime.map_weights(path, offset=part.offset, nbytes=part.nbytes)
    found: list[Any] = []
    for index, array in enumerate(read_weights(path, part)):
        if index not in of_functions:
            found.append(None)
            continue
        if mapped is not None:
            place, dtype = part.places[index], array.dtype.name
            found.append(runtime.view_as(mapped, place, array.shape, dtype))
            continue
        tensor = tvm.runtime.empty(array.shape, array.dtype.name, device)
        runtime.host_view(tensor)[...] = array
        memory.forget_pages(array)  # or both would count while the next ones are read
        found.append(tensor)
    return tuple(found)


def check_fits(path: Path, manifest: Manifest) -> None:
    """Refuse an artefact of another machine, TVM or SoC before any of its code is loaded."""
    here = this_os()
    if (manifest.os, manifest.host) != (here.system, here.machine):
        raise WrongMachine(
            f"{path}: its host code is for {manifest.os} on {manifest.host}, this machine is "
            f"{here.system} on {here.machine}; rebuild it here, or with --os {here.name}"
        )
    for package in ("apache-tvm", "apache-tvm-ffi"):
        built = manifest.versions.get(package)
        installed = runtime.package_version(package)
        if installed != built:
            raise WrongMachine(
                f"{path}: built with {package} {built}, {installed} is installed; "
                f"rebuild it, or pip install {package}=={built}"
            )


def _array(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    return np.from_dlpack(value) if hasattr(value, "__dlpack__") else np.asarray(value)


def _checked(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    if str(array.dtype) != spec.dtype:
        raise WrongTensors(f"input {spec.name}: dtype {array.dtype}, the model takes {spec.dtype}")
    if array.shape != spec.shape:
        raise WrongTensors(
            f"input {spec.name}: shape {list(array.shape)}, the model takes {list(spec.shape)}"
        )
    return array


def length_of(arrays: Mapping[str, np.ndarray], rules: LengthRules) -> int:
    """The length that inputs have, the same in all of those that are there and carry it.

    Raises:
        BadInput: they differ, or it is 0.
    """
    found: dict[str, int] = {}
    for name, axes in rules.input_axes.items():
        if name not in arrays:
            continue
        shape = arrays[name].shape
        if max(axes) >= len(shape):
            raise WrongTensors(f"input {name}: shape {list(shape)} has no dimension {max(axes)}")
        found.update({name if axis == axes[0] else f"{name}[{axis}]": shape[axis] for axis in axes})
    sizes = set(found.values())
    if len(sizes) > 1:
        said = ", ".join(f"{name} {size}" for name, size in found.items())
        raise WrongTensors(f"inputs differ in length: {said}")
    (size,) = sizes
    if size == 0:
        raise WrongTensors(f"inputs of length 0: {', '.join(found)}")
    return size


def _seen(array: np.ndarray, axes: tuple[int, ...] | None) -> np.ndarray:
    return array if axes is None else np.transpose(array, axes)


def last_line(error: BaseException) -> str:
    """What an error of TVM or a driver says in the end, without its trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
