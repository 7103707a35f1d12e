"""The C++ runtime, built for another machine.

It is compiled against the headers of the installed TVM, which are the same for every platform, and
linked with the libraries of TVM's wheel for that platform. The result is kept by what went into it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hetero_tvm import runtime
from hetero_tvm.cross_compiler import CrossCompiler, cross_compiler
from hetero_tvm.device_os import DeviceOs, this_os
from hetero_tvm.device_wheels import wheel_files
from hetero_tvm.errors import MissingPackage, NoWheel, RuntimeUnusable

LIBRARY = runtime.LIBRARY.name
PROGRAM = "hetero_device"
_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")
# The C++ library that the cross-compiler links in must neither be seen by TVM's nor see it.
_EXPORTS = "{ global: hetero_*; local: *; };\n"
_TVM_LIBRARIES = {
    "apache-tvm": "tvm/lib/libtvm_runtime.so",
    "apache-tvm-ffi": "tvm_ffi/lib/libtvm_ffi.so",
}


def sources() -> Path:
    """The folder of the runtime's sources: the checkout's, or what the package brought along.

    Raises:
        EnvironmentProblem: neither is there.
    """
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "runtime", package / "lib" / "runtime"):
        if (folder / "CMakeLists.txt").is_file():
            return folder
    raise RuntimeUnusable("the runtime's sources are not installed; pip install . again")


def tvm_libraries(target: DeviceOs, cache_dir: Path) -> list[Path]:
    """TVM's runtime and tvm-ffi for `target`, of the versions that are installed here.

    Raises:
        EnvironmentProblem: TVM has none for it, or it cannot be fetched.
    """
    if not target.has_tvm:
        raise NoWheel(
            f"apache-tvm has no wheel for {target.name}, so the runtime cannot be built for it; an "
            f"artefact can (`build --os {target.name}`), but to run it TVM's runtime and runtime/ "
            "have to be built there from source"
        )
    return [
        path
        for package, member in _TVM_LIBRARIES.items()
        for path in wheel_files(target, package, _version(package), [member], cache_dir=cache_dir)
    ]


def runtime_library(
    target: DeviceOs, cache_dir: Path, note: Callable[[str], None] = lambda text: None
) -> Path:
    """`libhetero_runtime.so` for `target`; built at the first call, about two minutes.

    Raises:
        EnvironmentProblem: no cross-compiler, no TVM for `target`, or the build failed.
    """
    return _built(target, cache_dir, note) / LIBRARY


def program(
    target: DeviceOs, cache_dir: Path, note: Callable[[str], None] = lambda text: None
) -> Path:
    """The program that a deployment leaves on a device; as `runtime_library`."""
    return _built(target, cache_dir, note) / PROGRAM


def _built(target: DeviceOs, cache_dir: Path, note: Callable[[str], None]) -> Path:
    libraries = tvm_libraries(target, cache_dir)
    compiler = cross_compiler(target, cache_dir)
    root = sources()
    files = [path for part in ("src", "device") for path in sorted(root.glob(f"{part}/**/*.cc"))]
    folder = cache_dir / "cross" / f"{target.name}-{_key(root, compiler, libraries)}"
    if folder.is_dir():
        return folder
    note(f"building the runtime for {target.name}: {len(files)} files, once")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="runtime-", dir=folder.parent) as name:
        work, made = Path(name), Path(name) / "made"
        made.mkdir()
        objects = _compile(compiler, files, _includes(root), work)
        exports = work / "exports.map"
        exports.write_text(_EXPORTS)
        compiler.run(
            [
                *(*compiler.cxx, "-shared", "-s", "-o", str(made / LIBRARY), *objects),
                *(f"-Wl,--version-script={exports}", "-Wl,-rpath,$ORIGIN"),
                *(f"-Wl,-soname,{LIBRARY}", *map(str, libraries), *compiler.link),
            ],
            what=f"linking the runtime for {target.name}",
        )
        compiler.run(
            [
                *(*compiler.c, "-s", "-O2", str(root / "device/main.c"), "-o", str(made / PROGRAM)),
                *("-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed"),
                *(str(made / LIBRARY), *map(str, libraries), *compiler.link),
            ],
            what=f"building {PROGRAM} for {target.name}",
        )
        if not folder.is_dir():
            made.rename(folder)
    return folder


def _includes(root: Path) -> list[str]:
    tvm, ffi = (runtime.package_folder(name) / "include" for name in ("tvm", "tvm_ffi"))
    return ["-I", str(root / "include"), "-isystem", str(tvm), "-isystem", str(ffi)]


def _compile(
    compiler: CrossCompiler, files: Sequence[Path], includes: Sequence[str], work: Path
) -> list[str]:
    """Objects of `files`; the first alone, since it makes zig build its C++ library."""
    objects = [str(work / f"{number}.o") for number in range(len(files))]

    def compile_one(number: int) -> None:
        source = str(files[number])
        compiler.run(
            [*compiler.cxx, *_FLAGS, *includes, "-c", source, "-o", objects[number]],
            what=f"compiling {files[number].name} for {compiler.target.name}",
        )

    compile_one(0)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(compile_one, range(1, len(files))))
    return objects


def _key(root: Path, compiler: CrossCompiler, libraries: Sequence[Path]) -> str:
    """What the result depends on, as one short name."""
    digest = hashlib.sha256(repr((compiler.cxx, compiler.link, _FLAGS, _EXPORTS)).encode())
    for path in sorted(root.glob("**/*")):
        if path.is_file():
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    for package in (*_TVM_LIBRARIES, "ziglang"):
        digest.update(f"{package} {runtime.package_version(package)}\n".encode())
    digest.update(this_os().name.encode())
    digest.update("".join(path.name for path in libraries).encode())
    return digest.hexdigest()[:16]


def _version(package: str) -> str:
    version = runtime.package_version(package)
    if version is None:
        raise MissingPackage(f"{package} is not installed; pip install {package}")
    return version
