"""Packaging: four Python packages as they lie on disk, and the C++ runtime built with CMake.

    pip install .                          the wheel carries what is built, in hetero_tvm/lib
    pip install -e .                       builds it into the source tree
    python setup.py build_ext --inplace    the same, without installing anything

Everything else about the project is in pyproject.toml.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
FOLDER = Path("hetero_tvm") / "lib"
BUILT = ("libhetero_runtime.so", "hetero_device")  # the library first


class CMakeRuntime(build_ext):
    """Build `runtime/` and put its library into `hetero_tvm/lib`."""

    def build_extension(self, ext: Extension) -> None:
        """Run CMake, then install the library beside the Python code, whole or not at all."""
        build_dir = Path(self.build_temp).resolve() / "runtime"
        build_dir.mkdir(parents=True, exist_ok=True)
        self.run_tool(
            [tool("cmake"), "-G", "Ninja", "-S", str(ROOT / "runtime"), "-B", str(build_dir)]
            + [f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", f"-DCMAKE_CXX_COMPILER={compiler()}"]
            + [f"-DPython3_EXECUTABLE={sys.executable}"]
            + [f"-D{name}_DIR={package_dir(name)}" for name in ("tvm", "tvm_ffi")]
        )
        self.run_tool([tool("cmake"), "--build", str(build_dir)])
        for name, output in zip(BUILT, self.get_outputs(), strict=True):
            install(build_dir / name, Path(output))
        # What cross-building the runtime for a device compiles (hetero_tvm/cross_runtime.py).
        shutil.copytree(
            ROOT / "runtime",
            Path(self.build_lib).resolve() / FOLDER / "runtime",
            dirs_exist_ok=True,
        )

    def copy_extensions_to_source(self) -> None:
        """Put the library into the source tree too: editable and in-place builds."""
        for name, output in zip(BUILT, self.get_outputs(), strict=True):
            install(Path(output), ROOT / FOLDER / name)

    def get_outputs(self) -> list[str]:
        """Return what a wheel has to take along."""
        return [str(Path(self.build_lib).resolve() / FOLDER / name) for name in BUILT]

    def get_output_mapping(self) -> dict[str, str]:
        """Return what an editable install finds where in the source tree."""
        if not self.inplace:
            return {}
        return {
            out: str(ROOT / FOLDER / name)
            for name, out in zip(BUILT, self.get_outputs(), strict=True)
        }

    def run_tool(self, command: list[str]) -> None:
        """Run one build step; its own output explains a failure."""
        if subprocess.run(command, check=False).returncode != 0:
            sys.exit(f"hetero_tvm: building the runtime failed at: {' '.join(command)}")


def install(built: Path, target: Path) -> None:
    """Copy a file under a new name and rename it, so that processes keep the file they run."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.copy(built, beside)  # with its mode: one of them is a program
    beside.replace(target)


def tool(name: str) -> str:
    """Return the path of `name`, from PATH or from beside this Python."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        sys.exit(f"hetero_tvm: {name} not found; install it: pip install {name}")
    return found


def compiler() -> str:
    """Return a C++17 compiler: $CXX, else g++, else clang++."""
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++")):
        found = shutil.which(name)
        if found is not None:
            return found
    sys.exit("hetero_tvm: no C++ compiler; install one (apt-get install g++) or set CXX to it")


def package_dir(name: str) -> str:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"hetero_tvm: Python package {name} not found; pip install apache-tvm")
    return spec.submodule_search_locations[0]


setup(
    # With the folders of data alone, which setuptools would warn of.
    packages=find_namespace_packages(
        include=[
            pattern
            for name in ("hetero_tvm", "relay_passes", "schedules", "target_specs")
            for pattern in (name, f"{name}.*")
        ]
    ),
    package_data={
        "hetero_tvm": [
            "lib/*.so",
            "lib/hetero_device",
            "*.toml",
            "schemas/*.json",
            "page/**/*",
        ],
        "target_specs": ["**/*.toml"],
    },
    ext_modules=[Extension("hetero_tvm.lib.hetero_runtime", sources=[])],
    cmdclass={"build_ext": CMakeRuntime},
    zip_safe=False,
)
