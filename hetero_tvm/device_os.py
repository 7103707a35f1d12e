"""Operating systems that host code can be made for, and this machine's.

An artefact's kernels and NPU regions belong to a SoC; the code that calls them belongs to an
operating system and a processor. Both names are needed wherever something is compiled or fetched
for another machine than this one.
"""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Mapping
from typing import Any

from hetero_tvm.errors import TargetUnusable

_GLIBC = "2.28"  # the oldest that TVM's wheels run with
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # as other systems call them -> as Linux does


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceOs:
    """One operating system on one processor."""

    name: str  # as `--os` takes it
    system: str  # linux, windows, android
    machine: str  # as Linux calls it: x86_64, aarch64
    triple: str  # LLVM's name for both
    zig: str | None = None  # zig's; None: zig has no C library for it
    wheels: tuple[str, ...] = ()  # platform tags of pip's wheels that run there, newest first
    has_tvm: bool = False  # TVM publishes its runtime for it

    @property
    def host_target(self) -> Mapping[str, Any]:
        """TVM's target for the code that calls kernels: no more than every such processor has."""
        return {"kind": "llvm", "mtriple": self.triple, "mcpu": _BASELINES[self.machine]}


_BASELINES = {"x86_64": "x86-64", "aarch64": "generic"}  # LLVM's names


def _linux(machine: str) -> DeviceOs:
    glibc_versions = ("2_35", "2_34", "2_28", "2_27", "2_24", "2_17")
    return DeviceOs(
        name=f"linux-{machine}",
        system="linux",
        machine=machine,
        triple=f"{machine}-linux-gnu",
        zig=f"{machine}-linux-gnu.{_GLIBC}",
        wheels=(
            *(f"manylinux_{version}_{machine}" for version in glibc_versions),
            f"manylinux2014_{machine}",
        ),
        has_tvm=True,
    )


_KNOWN = (
    _linux("x86_64"),
    _linux("aarch64"),
    DeviceOs(
        name="windows-arm64",
        system="windows",
        machine="aarch64",
        triple="aarch64-pc-windows-gnu",
        zig="aarch64-windows-gnu",
        wheels=("win_arm64",),
    ),
    DeviceOs(
        name="android-arm64", system="android", machine="aarch64", triple="aarch64-linux-android"
    ),
)
OSES: Mapping[str, DeviceOs] = {known.name: known for known in _KNOWN}


def device_os(name: str) -> DeviceOs:
    """The operating system called `name`.

    Raises:
        BadInput: none is called so.
    """
    if name not in OSES:
        raise TargetUnusable(f"--os {name}: not known; one of {', '.join(OSES)}")
    return OSES[name]


def os_of(system: str, machine: str) -> DeviceOs | None:
    """The operating system of that system and processor; None where host code cannot be for it."""
    found = (one for one in _KNOWN if (one.system, one.machine) == (system, machine))
    return next(found, None)


def this_os() -> DeviceOs:
    """The operating system of this machine.

    One that host code cannot be made for by a name has a nameless entry of its own, so that
    building for the machine itself works anywhere.
    """
    # sys, not platform: Python for Android calls its platform so since 3.13 and its system Linux.
    android = sys.platform == "android" or hasattr(sys, "getandroidapilevel")
    system = "android" if android else platform.system().lower()
    machine = platform.machine().lower()
    machine = _MACHINES.get(machine, machine)
    nameless = DeviceOs(name=f"{system}-{machine}", system=system, machine=machine, triple="")
    return os_of(system, machine) or nameless
