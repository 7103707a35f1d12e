"""What a device needs beside the artefact: which libraries, and how the runtime is told of each."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from hetero_tvm import cross_runtime, runtime
from hetero_tvm.bundle import Manifest
from hetero_tvm.device_os import OSES, DeviceOs, os_of, this_os
from hetero_tvm.device_wheels import wheel_files
from hetero_tvm.errors import RuntimeUnusable, WrongMachine

logger = logging.getLogger(__name__)

PROGRAM = cross_runtime.PROGRAM
_EXTRA = "tvm/lib/libtvm_runtime_extra.so"  # what generated host code calls for sorts
_QNN = "onnxruntime_qnn/lib{}.so"


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


def libraries_for(manifest: Manifest, cache_dir: Path) -> list[Library]:
    """Program and libraries that run the artefact on its device, the program first.

    For this kind of machine they are the installed ones; for another one ours are cross-built and
    the others come out of pip's wheels for it, both kept in `cache_dir`.

    Raises:
        BadInput: its host code is for a machine that there are no libraries for.
        EnvironmentProblem: one of them is not installed, cannot be fetched or built.
    """
    here = this_os()
    if (manifest.os, manifest.host) == (here.system, here.machine):
        return _installed(manifest)
    target = os_of(manifest.os, manifest.host)
    if target is None:
        raise WrongMachine(
            f"its host code is for {manifest.os} on {manifest.host}, and there are libraries for "
            f"{', '.join(OSES)}; deploy from such a machine"
        )
    return _fetched(manifest, target, cache_dir)


def _fetched(manifest: Manifest, target: DeviceOs, cache_dir: Path) -> list[Library]:
    """As `_installed`, for another machine; in the versions that the artefact was built with."""

    def out_of(package: str, *patterns: str) -> list[Path]:
        version = manifest.versions.get(package)
        if version is None:
            raise WrongMachine(
                f"it was built without {package}, which its NPU part needs; rebuild it"
            )
        return wheel_files(target, package, version, patterns, cache_dir=cache_dir)

    note = logger.info
    found = [
        _library(cross_runtime.program(target, cache_dir, note)),
        _library(cross_runtime.runtime_library(target, cache_dir, note)),
        *map(_library, cross_runtime.tvm_libraries(target, cache_dir)),
        _library(out_of("apache-tvm", _EXTRA)[0], load=True),
    ]
    if manifest.npu_regions or manifest.fallback:
        (ort,) = out_of("onnxruntime", "onnxruntime/capi/libonnxruntime.so.*")
        found.append(_library(ort, "ort.library"))
        if manifest.npu_provider == "qnn":
            arch = manifest.htp_arch
            names = ["QnnSystem", "QnnHtpPrepare", f"QnnHtpV{arch}Stub", f"QnnHtpV{arch}Skel"]
            (plugin,) = out_of("onnxruntime-qnn", _QNN.format("onnxruntime_providers_qnn"))
            (backend,) = out_of("onnxruntime-qnn", _QNN.format("QnnHtp"))
            found += [_library(plugin, "qnn.library"), _library(backend, "qnn.backend")]
            parts = [path for n in names for path in out_of("onnxruntime-qnn", _QNN.format(n))]
            found += map(_library, parts)
    return found


def _installed(manifest: Manifest) -> list[Library]:
    found = [
        _library(runtime.LIBRARY.with_name(PROGRAM)),
        _library(runtime.LIBRARY),
        _library(runtime.package_folder("tvm") / "lib" / "libtvm_runtime.so"),
        _library(runtime.package_folder("tvm_ffi") / "lib" / "libtvm_ffi.so"),
        _library(runtime.package_folder("tvm").parent / _EXTRA, load=True),
    ]
    if manifest.npu_regions or manifest.fallback:
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
        raise RuntimeUnusable(f"{path} is missing; install this package again: pip install .")
    return Library(path=path.resolve(), name=path.name, setting=setting, load=load)
