"""C and C++ for another operating system: `ziglang` from pip, or Android's NDK.

zig carries a C library and a C++ library for each of its targets; what it builds of them is kept in
the cache folder (about a minute at the first C++ program, seconds at the first C one).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hetero_tvm.device_os import DeviceOs
from hetero_tvm.errors import CannotWrite, MissingPackage, NoCompiler

_NO_SPACE = "No space left on device"  # as linkers say it in English
ANDROID_API = 29  # Android 10, the first on which programs may load the vendor's libcdsprpc.so
_NDK_HELP = (
    "download 'Linux 64-bit' of r27 or newer from https://developer.android.com/ndk/downloads "
    "(about 700 MB), unzip it, and export ANDROID_NDK_HOME=/path/to/android-ndk-r27c"
)

# What code that TVM generates calls. A Windows library names the library of each function that it
# leaves open, at link time; elsewhere these are looked up when it is loaded.
_CALLED = {
    "tvm_ffi": (
        "TVMFFIEnvModLookupFromImports",
        "TVMFFIErrorSetRaisedFromCStr",
        "TVMFFIErrorSetRaisedFromCStrParts",
        "TVMFFIFunctionCall",
        "TVMFFIHandleInitOnce",
    ),
    "tvm_runtime": (
        "TVMBackendAllocWorkspace",
        "TVMBackendAnyListMoveFromPackedReturn",
        "TVMBackendAnyListResetItem",
        "TVMBackendAnyListSetPackedArg",
        "TVMBackendFreeWorkspace",
        "TVMBackendParallelBarrier",
        "TVMBackendParallelLaunch",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossCompiler:
    """Command lines that compile and link for `target`."""

    target: DeviceOs
    c: tuple[str, ...]
    cxx: tuple[str, ...]
    link: tuple[str, ...] = ()  # what every link needs besides
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def run(self, command: Sequence[str], *, what: str) -> None:
        """Run one of its command lines. Raises EnvironmentProblem as `run_compiler`."""
        run_compiler(command, what=what, env=self.env)


def run_compiler(command: Sequence[str], *, what: str, env: Mapping[str, str] = {}) -> None:
    """Run a compiler or linker; whatever ends this ends what it started too.

    The driver starts compiler and linker as children of its own, which would go on writing when
    only the driver is stopped: so all are one group, and the group is killed.

    Raises:
        EnvironmentProblem: it failed; `what` and its last line of complaint.
        CannotWrite: a disk is full.
    """
    with subprocess.Popen(
        list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **env, "LC_ALL": "C"},
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        if _NO_SPACE in said:
            raise CannotWrite(f"{what} failed: {_NO_SPACE}; make room there, or where TMPDIR says")
        errors = [line.strip() for line in said.splitlines() if "error:" in line]
        last = (errors or said.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise NoCompiler(f"{what} failed: {last[:300]}")


def cross_compiler(target: DeviceOs, cache_dir: Path) -> CrossCompiler:
    """What compiles for `target` on this machine.

    Raises:
        EnvironmentProblem: it is not installed; says how to get it.
    """
    if target.system == "android":
        return _ndk(target)
    if target.zig is None:
        raise NoCompiler(f"there is no cross-compiler for {target.name}")
    zig, cache = str(_zig()), str(cache_dir / "zig")
    return CrossCompiler(
        target=target,
        c=(zig, "cc", "-target", target.zig),
        cxx=(zig, "c++", "-target", target.zig),
        link=_import_libraries(zig, cache_dir / "zig") if target.system == "windows" else (),
        env={"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache},
    )


def _import_libraries(zig: str, folder: Path) -> tuple[str, ...]:
    """Libraries that say which function is in which of TVM's; they hold no code."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for library, functions in _CALLED.items():
        definition, path = folder / f"{library}.def", folder / f"lib{library}.a"
        definition.write_text("\n".join([f"LIBRARY {library}.dll", "EXPORTS", *functions, ""]))
        words = [zig, "dlltool", "-m", "arm64", "-d", str(definition), "-l", str(path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NoCompiler(f"zig dlltool failed: {done.stderr.strip()[-300:]}")
        made.append(str(path))
    return tuple(made)


def _zig() -> Path:
    spec = importlib.util.find_spec("ziglang")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for name in ("zig", "zig.exe"):
            if (found := Path(folder) / name).is_file():
                return found
    raise MissingPackage(
        "the cross-compiler is not installed; run: pip install 'hetero-tvm[cross]'"
    )


def _ndk(target: DeviceOs) -> CrossCompiler:
    where = os.environ.get("ANDROID_NDK_HOME", "")
    if not where:
        raise NoCompiler(
            f"--os {target.name} needs Android's NDK, and ANDROID_NDK_HOME is not set: {_NDK_HELP}"
        )
    found = sorted(Path(where).glob("toolchains/llvm/prebuilt/*/bin"))
    clang = [folder / f"{target.triple}{ANDROID_API}-clang" for folder in found]
    compiler = next((path for path in clang if path.is_file()), None)
    if compiler is None:
        raise NoCompiler(
            f"ANDROID_NDK_HOME={where}: no toolchains/llvm/prebuilt/*/bin/"
            f"{target.triple}{ANDROID_API}-clang in it: {_NDK_HELP}"
        )
    return CrossCompiler(
        target=target,
        c=(str(compiler),),
        cxx=(f"{compiler}++",),
        # Devices whose memory pages are 16 KB load nothing that is aligned to less.
        link=("-Wl,-z,max-page-size=16384",),
    )
