"""What a device needs beside the artefact: which libraries, and how the runtime is told of each."""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
from pathlib import Path

from hetero_tvm import runtime
from hetero_tvm.bundle import Manifest
from hetero_tvm.errors import BadInput, EnvironmentProblem

PROGRAM = "hetero_device"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Library:
    """One file for the device.

    `setting`: of the runtime, which is told where it lies there. `load`: the program loads it,
    since nothing else names it.
    """

    path: Path
    name: str
    setting: str | None = None
    load: bool = False


def libraries_for(manifest: Manifest) -> list[Library]:
    """Program and libraries that run the artefact on its device, the program first.

    Raises:
        BadInput: its host code is for a machine that this one has no libraries for.
        EnvironmentProblem: one of them is not installed.
    """
    if manifest.host != platform.machine():
        raise BadInput(
            f"its host code is for {manifest.host}, and this machine has libraries for "
            f"{platform.machine()}; deploy from such a machine"
        )
    found = [
        _library(runtime.LIBRARY.with_name(PROGRAM)),
        _library(runtime.LIBRARY),
        _library(_package("tvm") / "lib" / "libtvm_runtime.so"),
        _library(_package("tvm_ffi") / "lib" / "libtvm_ffi.so"),
        # What generated host code calls for sorts.
        _library(_package("tvm") / "lib" / "libtvm_runtime_extra.so", load=True),
    ]
    if manifest.npu_regions:
        runtime.require(ort=True, qnn=manifest.npu_provider == "qnn")
        paths = runtime.library_paths()
        wanted = ["ort.library"]
        if manifest.npu_provider == "qnn":
            wanted += ["qnn.library", "qnn.backend"]
        for setting in wanted:
            path = paths[setting]
            assert path is not None  # `require` saw to it
            found.append(_library(path, setting))
        if manifest.npu_provider == "qnn":
            backend = paths["qnn.backend"]
            assert backend is not None
            found += [_library(path) for path in _beside(backend)]
    return found


def _beside(backend: Path) -> list[Path]:
    """What Qualcomm's backend loads by name: its own parts, never the other backends."""
    names = ("libQnnSystem.so", "libQnnHtpPrepare.so", "libHtpPrepare.so")
    return [backend.with_name(name) for name in names if backend.with_name(name).is_file()]


def _library(path: Path, setting: str | None = None, *, load: bool = False) -> Library:
    if not path.is_file():
        raise EnvironmentProblem(f"{path} is missing; install this package again: pip install .")
    return Library(path=path.resolve(), name=path.name, setting=setting, load=load)


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentProblem(f"{name} is not installed; pip install hetero-tvm")
    return Path(spec.submodule_search_locations[0])
