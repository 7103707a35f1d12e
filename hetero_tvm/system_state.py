"""How hot, how fast and how hungry the machine is at the moment, where its system shows it.

Everything is read from files that Linux and Android show to any user; what is not there is None or
left out. Temperatures in °C, clocks in MHz, power in watts.
"""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Any

_ROOT = Path("/")
FILES = (  # patterns of all that is read below, but of the processor's long description
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_*_freq",
    "/sys/class/thermal/thermal_zone*/type",
    "/sys/class/thermal/thermal_zone*/temp",
    "/sys/class/hwmon/hwmon*/name",
    "/sys/class/hwmon/hwmon*/temp*_input",
    "/sys/class/hwmon/hwmon*/temp*_label",
    "/sys/class/kgsl/kgsl-3d0/temp",
    "/sys/class/kgsl/kgsl-3d0/gpuclk",
    "/sys/class/kgsl/kgsl-3d0/devfreq/cur_freq",
    "/sys/class/power_supply/*/type",
    "/sys/class/power_supply/*/status",
    "/sys/class/power_supply/*/*_now",
    "/sys/devices/soc0/machine",
    "/proc/sys/kernel/ostype",
    "/proc/sys/kernel/osrelease",
)
_PLAUSIBLE_C = (-40.0, 150.0)  # a sensor that is off says 0, -273 or 2^31 / 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SystemState:
    """One look at the machine."""

    temperatures_c: dict[str, float]  # sensor -> reading
    cpu_mhz: float | None  # mean over the cores that run
    cpu_max_mhz: float | None  # what the fastest core may reach at the moment
    gpu_mhz: float | None
    power_w: float | None  # out of the battery; None while it is charged or not shown

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature that any sensor shows."""
        return max(self.temperatures_c.values(), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**dataclasses.asdict(self), "hottest_c": self.hottest_c}


def read_state(root: Path = _ROOT) -> SystemState:
    """Look now; takes a millisecond. `root`: of the file system, for tests."""
    cores = [
        khz / 1e3
        for path in sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
        if (khz := _number(path)) is not None
    ]
    limits = [
        khz / 1e3
        for path in sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_max_freq"))
        if (khz := _number(path)) is not None
    ]
    return SystemState(
        temperatures_c=_temperatures(root),
        cpu_mhz=sum(cores) / len(cores) if cores else None,
        cpu_max_mhz=max(limits, default=None),
        gpu_mhz=_gpu_mhz(root),
        power_w=_power_w(root),
    )


def machine(root: Path = _ROOT, processor: str | None = None) -> dict[str, str]:
    """What the machine is: system, processor, and the SoC where Qualcomm's kernel says it.

    `processor`: its kind, for where nothing names it; this machine's by default.
    """
    system = _text(root / "proc/sys/kernel/ostype") or platform.system()
    release = _text(root / "proc/sys/kernel/osrelease") or platform.release()
    found = {
        "system": f"{system} {release}",
        "cpu": _cpu_name(root, processor or platform.machine()),
    }
    soc = _text(root / "sys/devices/soc0/machine")
    return {**found, "soc": soc} if soc else found


def _cpu_name(root: Path, kind: str) -> str:
    for line in (_text(root / "proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Hardware"):
            return value.strip()
    return kind


def _temperatures(root: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        name = _text(zone / "type") or zone.name
        _note(found, name, _number(zone / "temp"))
    for sensor in sorted(root.glob("sys/class/hwmon/hwmon*/temp*_input")):
        label = sensor.with_name(sensor.name.replace("_input", "_label"))
        chip = _text(sensor.parent / "name") or sensor.parent.name
        _note(found, f"{chip} {_text(label) or sensor.name}", _number(sensor))
    _note(found, "kgsl", _number(root / "sys/class/kgsl/kgsl-3d0/temp"))
    return found


def _note(found: dict[str, float], name: str, reading: float | None) -> None:
    """Readings are in thousandths, older kernels' in whole degrees."""
    if reading is None:
        return
    celsius = reading / 1e3 if abs(reading) >= 1000 else reading
    if celsius != 0 and _PLAUSIBLE_C[0] < celsius < _PLAUSIBLE_C[1]:
        found[name] = celsius


def _gpu_mhz(root: Path) -> float | None:
    hertz = _number(root / "sys/class/kgsl/kgsl-3d0/gpuclk")
    if hertz is None:
        hertz = _number(root / "sys/class/kgsl/kgsl-3d0/devfreq/cur_freq")
    return None if hertz is None else hertz / 1e6


def _power_w(root: Path) -> float | None:
    for battery in sorted(root.glob("sys/class/power_supply/*")):
        if _text(battery / "type") != "Battery" or _text(battery / "status") != "Discharging":
            continue
        microwatts = _number(battery / "power_now")
        if microwatts is not None:
            return abs(microwatts) / 1e6
        microamperes = _number(battery / "current_now")
        microvolts = _number(battery / "voltage_now")
        if microamperes is not None and microvolts is not None:
            return abs(microamperes) * microvolts / 1e12
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, UnicodeDecodeError):  # not there, not for us, or a sensor that is asleep
        return None


def _number(path: Path) -> float | None:
    try:
        return float(_text(path) or "")
    except ValueError:
        return None
