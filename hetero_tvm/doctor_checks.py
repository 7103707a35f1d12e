"""What has to be right on a machine, piece by piece, each with the way to repair it.

A check is a function that returns `Result`s and never raises. `WARN` is something that building and
running can do without; `FAIL` is not.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from hetero_tvm import __version__, device_check
from hetero_tvm.config import default_cache_dir
from hetero_tvm.device_check import Found, Wanted

Status = Literal["ok", "warn", "FAIL"]
ENVIRONMENT, DEVICE = 3, 4  # exit codes of what fails

_OLDEST_PYTHON = (3, 11)
_NAME = "hetero-tvm"
_SIMULATED = "snapdragon-8-gen-3"
# A model of 100 MB takes about 1.5 GB to build (memory_forecast), and its artefact twice its size.
_LEAST_MEMORY_BYTES = 2 << 30
_LEAST_DISK_BYTES = 1 << 30
_COMPILE_S = 60
_EXTRAS = {  # that a host needs at one time or another -> what for
    "qnn": "targets snapdragon-*: Qualcomm's NPU compiler and simulator",
    "cpu-opencl": "an OpenCL driver where no other is",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the doctor's."""

    name: str
    status: Status
    words: str
    fix: str = ""  # what to do, where something is to be done
    exit_code: int = ENVIRONMENT  # if it fails
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


def python() -> Iterator[Result]:
    """The interpreter."""
    words = f"{platform.python_version()} in {sys.prefix}, {platform.machine()}"
    facts = {"version": platform.python_version(), "machine": platform.machine()}
    facts["system"] = platform.platform()
    if sys.version_info[:2] < _OLDEST_PYTHON or sys.maxsize < 2**32:
        fix = "install 64-bit Python 3.11 or newer and make a new environment with it"
        yield Result(name="Python", status="FAIL", words=words, fix=fix, facts=facts)
    else:
        yield Result(name="Python", status="ok", words=words, facts=facts)


def packages() -> Iterator[Result]:
    """Installed packages against the versions that this one was made and tested with."""
    from packaging.requirements import Requirement

    core, extras = requirements()
    wrong, missing, found = [], [], {_NAME: __version__}
    for requirement in map(Requirement, core):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        version = _version(requirement.name)
        if version is None:
            missing.append(str(requirement))
            continue
        found[requirement.name] = version
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version}, not {requirement.specifier}")
    if wrong or missing:
        words = "; ".join([*wrong, *(f"{name} is missing" for name in missing)])
        needed = " ".join(f"'{text}'" for text in core)
        fix = f"pip install {needed}"
        yield Result(name="packages", status="FAIL", words=words, fix=fix, facts=found)
    else:
        words = f"{len(found) - 1} as required: TVM {found.get('apache-tvm', '?')}"
        yield Result(name="packages", status="ok", words=words, facts=found)
    for extra, purpose in _EXTRAS.items():
        yield from _extra(extra, purpose, extras.get(extra, []))


def _extra(extra: str, purpose: str, texts: Iterable[str]) -> Iterator[Result]:
    """One optional group: complete, absent or of other versions."""
    from packaging.requirements import Requirement

    found, problems = {}, []
    for requirement in map(Requirement, texts):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        version = _version(requirement.name)
        if version is None:
            problems.append(f"{requirement.name} is not installed")
            continue
        found[requirement.name] = version
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{requirement.name} {version}, not {requirement.specifier}")
    name = f"extra {extra}"
    if problems:
        fix = f"pip install '{_NAME}[{extra}]'   ({purpose})"
        words = "; ".join(problems)
        yield Result(name=name, status="warn", words=words, fix=fix, facts=found)
    elif found:
        words = ", ".join(f"{package} {version}" for package, version in found.items())
        yield Result(name=name, status="ok", words=words, facts=found)


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """(what is needed, extra -> what it brings), of the source tree or of the installed package."""
    source = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if source.is_file():
        project = tomllib.loads(source.read_text())["project"]
        return project["dependencies"], project["optional-dependencies"]
    from packaging.requirements import Requirement

    core: list[str] = []
    extras: dict[str, list[str]] = {}
    for text in importlib.metadata.requires(_NAME) or []:
        marker = str(Requirement(text).marker or "")
        of = [extra for extra in _EXTRAS if f'extra == "{extra}"' in marker]
        if of:
            extras.setdefault(of[0], []).append(text)
        elif "extra ==" not in marker:
            core.append(text)
    return core, extras


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def library() -> Iterator[Result]:
    """Our own C++ library."""
    from hetero_tvm import runtime
    from hetero_tvm.errors import HeteroError

    try:
        runtime.load()
    except (HeteroError, ImportError, OSError) as error:
        fix = "pip install --force-reinstall --no-deps .   (needs a C++17 compiler)"
        words = str(error).splitlines()[0]
        yield Result(name="runtime library", status="FAIL", words=words, fix=fix)
        return
    yield Result(name="runtime library", status="ok", words=str(runtime.LIBRARY))


def compiler() -> Iterator[Result]:
    """A C++ compiler that makes shared libraries which this process can load."""
    name = "C++ compiler"
    fix = "install one (Debian: apt-get install g++) or point CXX at one"
    command = os.environ.get("CXX") or next(
        (found for word in ("g++", "clang++", "c++") if (found := shutil.which(word))), ""
    )
    if not command or shutil.which(command) is None:
        yield Result(name=name, status="FAIL", words=f"none found (CXX={command!r})", fix=fix)
        return
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder) / "one.cc", Path(folder) / "one.so"
        source.write_text(
            '#include <vector>\nextern "C" int one() { return std::vector<int>(1).size(); }\n'
        )
        try:
            done = subprocess.run(
                [command, "-std=c++17", "-shared", "-fPIC", "-o", str(built), str(source)],
                capture_output=True,
                text=True,
                check=False,
                timeout=_COMPILE_S,
            )
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            right = done.returncode == 0 and ctypes.CDLL(str(built)).one() == 1
        except (OSError, subprocess.TimeoutExpired) as error:
            right, said = False, str(error)
    if right:
        yield Result(name=name, status="ok", words=f"{command} builds a library that loads")
    else:
        yield Result(name=name, status="FAIL", words=f"{command}: {said[:200]}", fix=fix)


def disk() -> Iterator[Result]:
    """The cache's folder and the temporary one."""
    for name, path, variable in (
        ("cache", default_cache_dir(), "HETERO_CACHE_DIR"),
        ("temporary files", Path(tempfile.gettempdir()), "TMPDIR"),
    ):
        free, problem = _free(path)
        facts = {"path": str(path), "free_bytes": free}
        fix = f"make room, or point {variable} at another folder"
        if problem:
            words = f"{path}: {problem}"
            yield Result(name=name, status="FAIL", words=words, fix=fix, facts=facts)
        else:
            status: Status = "ok" if free >= _LEAST_DISK_BYTES else "warn"
            words = f"{path}, {free / 1e9:.1f} GB free"
            fix = "" if status == "ok" else fix
            yield Result(name=name, status=status, words=words, fix=fix, facts=facts)


def _free(path: Path) -> tuple[int, str]:
    """(bytes free, why it cannot be written to)."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        return shutil.disk_usage(path).free, ""
    except OSError as error:
        return 0, f"cannot be written to: {error.strerror or error}"


def memory() -> Iterator[Result]:
    """What is available now."""
    import psutil

    found = psutil.virtual_memory()
    words = f"{found.available / 1e9:.1f} of {found.total / 1e9:.1f} GB available"
    facts = {"available_bytes": found.available, "total_bytes": found.total}
    if found.available >= _LEAST_MEMORY_BYTES:
        yield Result(name="memory", status="ok", words=words, facts=facts)
    else:
        fix = "end other programs, or build on a larger machine; `inspect` says what a model takes"
        yield Result(name="memory", status="warn", words=words, fix=fix, facts=facts)


def opencl() -> Iterator[Result]:
    """A kernel on every OpenCL device, float32 and, where it has it, float16."""
    from hetero_tvm import runtime
    from hetero_tvm.errors import HeteroError

    no_driver = f"pip install '{_NAME}[cpu-opencl]', or install your GPU's OpenCL driver"
    try:
        devices = runtime.opencl_devices()
    except (HeteroError, OSError, RuntimeError) as error:
        words = str(error).splitlines()[0]
        yield Result(name="OpenCL", status="FAIL", words=words, fix=no_driver)
        return
    if not devices:
        yield Result(name="OpenCL", status="FAIL", words="no device", fix=no_driver)
    for device in devices:
        name = f"OpenCL {device['index']}"
        about = f"{device['name']} ({device['platform']}, driver {device['driver_version']})"
        other = "update the driver, or choose another device with HETERO_OPENCL_DEVICE"
        wanted = [Wanted(place="gpu", device=device["index"])]
        if device["half"]:
            wanted.append(Wanted(place="gpu", device=device["index"], dtype="float16"))
        for one in wanted:
            found = device_check.check(one)
            words = f"{about}: {one.dtype} product {_numbers(found)}"
            words += f", memory {found.memory}" if found.memory else ""
            if found.memory and one.dtype == "float32":
                words += f" ({device['memory_why']})"
            yield _judged(name, found, words, other, dict(device))
        if not device["half"]:
            words = f"{about}: no half precision (cl_khr_fp16)"
            fix = "float32 works; for --dtype float16 choose a device that has it"
            yield Result(name=name, status="warn", words=words, fix=fix)
        if device["memory"] == "buffer":
            words = f"{about}: buffers are mapped: {device['memory_why']}"
            fix = "works; parts of one tensor on two devices rest on the driver's kindness"
            yield Result(name=name, status="warn", words=words, fix=fix)


def npu() -> Iterator[Result]:
    """A product on the NPU's stand-in, and on Qualcomm's simulator where it is installed."""
    found = device_check.check(Wanted(place="npu"))
    words = f"ONNX Runtime's CPU provider: product {_numbers(found)}"
    fix = "pip install --force-reinstall onnxruntime of the required version"
    yield _judged("NPU stand-in", found, words, fix)
    if _version("onnxruntime-qnn") is None:
        return  # said by `packages`
    found = device_check.check(Wanted(place="npu", target=_SIMULATED))
    words = f"compiled for {_SIMULATED}, run by Qualcomm's x86 simulator: {_numbers(found)}"
    fix = f"pip install --force-reinstall '{_NAME}[qnn]'; it needs glibc 2.35 or newer"
    yield _judged("HTP simulator", found, words, fix)


def split() -> Iterator[Result]:
    """One product computed by both devices at once: everything together."""
    found = device_check.check(Wanted(place="split"))
    words = f"rows on the NPU's stand-in and on {found.device or 'the GPU'}: {_numbers(found)}"
    fix = "repair what fails above; if nothing does, report this output with --json"
    yield _judged("split product", found, words, fix)


def _numbers(found: Found) -> str:
    if found.error:
        return found.error
    right = "right" if found.held else "WRONG"
    return f"{right}, off by {found.relative_error or 0.0:.1e}, in {found.seconds:.1f} s"


def _judged(
    name: str, found: Found, words: str, fix: str, facts: dict[str, Any] | None = None
) -> Result:
    return Result(
        name=name,
        status="ok" if found.held else "FAIL",
        words=words,
        fix="" if found.held else fix,
        exit_code=DEVICE,
        facts={**(facts or {}), **dataclasses.asdict(found)},
    )


CHECKS: tuple[Callable[[], Iterator[Result]], ...] = (
    python,
    packages,
    library,
    compiler,
    disk,
    memory,
    opencl,
    npu,
    split,  # last: it needs all of the above
)
