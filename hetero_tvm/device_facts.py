"""What a device is and has, asked with plain shell: no program of ours needs to be there yet."""

from __future__ import annotations

import dataclasses
from typing import Any

from hetero_tvm.errors import DeviceLacks
from hetero_tvm.transports.transport import Transport
from target_specs.loader import list_specs, load_spec

# Each line of its output is KEY=VALUE. Nothing here fails where a file or a tool is not there.
_SCRIPT = r"""
first() { for f in "$@"; do [ -r "$f" ] && { head -n 1 "$f" | tr -d '\000'; return; }; done; }
prop() { command -v getprop >/dev/null 2>&1 && getprop "$1"; }
have() { for f in "$@"; do [ -e "$f" ] && { echo "$f"; return; }; done; }
echo "system=$(uname -s)"
echo "machine=$(uname -m)"
echo "kernel=$(uname -r)"
echo "android=$(prop ro.build.version.release)"
echo "name=$(prop ro.product.model)$(first /sys/firmware/devicetree/base/model)"
echo "soc_id=$(first /sys/devices/soc0/soc_id)"
echo "soc_name=$(prop ro.soc.model)"
gpu=$(first /sys/class/kgsl/kgsl-3d0/gpu_model)
driver=
if command -v dumpsys >/dev/null 2>&1; then  # "GLES: Qualcomm, Adreno (TM) 750, OpenGL ES 3.2 V@…"
  gles=$(dumpsys SurfaceFlinger 2>/dev/null | sed -n 's/^ *GLES: *[^,]*, *//p' | head -n 1)
  [ -n "$gpu" ] || gpu=${gles%%,*}
  driver=$(echo "$gles" | sed -n 's/^[^,]*, *//p')
fi
[ -n "$driver" ] || driver=$(command -v clinfo >/dev/null 2>&1 && clinfo --raw 2>/dev/null |
  sed -n 's/.*CL_DRIVER_VERSION *//p' | head -n 1)
[ -n "$driver" ] || for f in /etc/OpenCL/vendors/*.icd /vendor/etc/OpenCL/vendors/*.icd; do
  [ -r "$f" ] && driver=$(first "$f") && break
done
echo "gpu=$gpu"
echo "gpu_driver=$driver"
echo "memory_kb=$(awk '/^MemTotal/ {print $2}' /proc/meminfo 2>/dev/null)"
echo "memory_free_kb=$(awk '/^MemAvailable/ {print $2}' /proc/meminfo 2>/dev/null)"
echo "processors=$(grep -c '^processor' /proc/cpuinfo 2>/dev/null)"
libs="/vendor/lib64 /system/vendor/lib64 /system/lib64 /usr/lib/aarch64-linux-gnu"
libs="$libs /usr/lib/x86_64-linux-gnu /usr/lib64 /usr/lib /usr/local/lib"
opencl=; fastrpc=
for d in $libs; do
  [ -n "$opencl" ] || opencl=$(have $d/libOpenCL.so $d/libOpenCL.so.1 $d/libOpenCL_adreno.so)
  [ -n "$fastrpc" ] || fastrpc=$(have $d/libcdsprpc.so $d/libcdsprpc.so.1)
done
[ -n "$opencl" ] || opencl=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null |
  sed -n 's/.*libOpenCL\.so.* => //p' | head -n 1)
echo "opencl=$opencl"
echo "icds=$(ls /etc/OpenCL/vendors /vendor/etc/OpenCL/vendors 2>/dev/null | grep -c '\.icd$')"
echo "fastrpc=$fastrpc"
echo "dsp=$(have /dev/fastrpc-cdsp /dev/adsprpc-smd /dev/fastrpc-cdsp-secure)"
echo "libc=$(getconf GNU_LIBC_VERSION 2>/dev/null)"
echo "user=$(id -un 2>/dev/null)"
for z in /sys/class/thermal/thermal_zone*/temp; do
  t=$(cat "$z" 2>/dev/null) && [ -n "$t" ] && echo "temperature=$t"
done
for tool in tail head sha256sum mv df; do
  command -v $tool >/dev/null 2>&1 || echo "lacks=$tool"
done
true
"""
_MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}
_HOTTEST_BELIEVED_C = 150.0  # some zones report their trip points or nonsense


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """One device; empty words and None where it does not say."""

    where: str
    system: str  # linux, android
    machine: str
    name: str
    soc: str
    soc_id: int | None
    htp_arch: int | None  # None: no Snapdragon, or one that no target knows
    gpu: str
    gpu_driver: str  # its version; else the library that OpenCL's loader finds
    memory_bytes: int | None
    memory_free_bytes: int | None
    processors: int | None
    storage_free_bytes: int
    temperature_c: float | None  # the hottest sensor
    opencl: str  # path of its library
    fastrpc: str  # path of the NPU's driver library
    libc: str
    lacks: tuple[str, ...]  # tools that a deployment needs

    def missing(self) -> list[str]:
        """What keeps it from running artefacts, each with the next step."""
        found = []
        if not self.opencl:
            found.append(
                "no OpenCL: install the GPU's driver (without a GPU, on Debian: pocl-opencl-icd), "
                "or name its library with `deploy --opencl-library`"
            )
        if self.soc_id is not None and not self.fastrpc:
            found.append(
                "no libcdsprpc.so, the NPU's driver library: it comes with the vendor's system "
                "image (Debian and Ubuntu on Snapdragon: package libcdsprpc1 of fastrpc)"
            )
        if self.soc_id is not None and self.htp_arch is None:
            found.append(
                f"SoC {self.soc_id} is of no target here: write a TOML file for it, see "
                "target_specs/README.md"
            )
        found += [f"no `{tool}`: install coreutils, busybox or toybox" for tool in self.lacks]
        return found

    def to_dict(self) -> dict[str, Any]:
        """As plain data, with what is missing."""
        return {**dataclasses.asdict(self), "missing": self.missing()}


def read_facts(transport: Transport, folder: str = "/") -> DeviceFacts:
    """Ask the device behind `transport`; free storage is that of `folder`.

    Raises:
        DeviceFailure: not reached, or no shell that answers.
    """
    values: dict[str, str] = {}
    temperatures = []
    lacks = []
    for line in transport.check("sh -s", data=_SCRIPT.encode()).splitlines():
        key, _, value = line.partition("=")
        if key == "temperature":
            temperatures.append(_celsius(value))
        elif key == "lacks":
            lacks.append(value)
        else:
            values[key] = value.strip()
    if "system" not in values or "machine" not in values:
        raise DeviceLacks(f"{transport.where}: no POSIX shell answers there")
    soc_id = _number(values.get("soc_id", ""))
    soc, htp_arch = _known_soc(soc_id)
    believed = [t for t in temperatures if t is not None and 0 < t < _HOTTEST_BELIEVED_C]
    kilobytes = {key: _number(values.get(key, "")) for key in ("memory_kb", "memory_free_kb")}
    return DeviceFacts(
        where=transport.where,
        system="android" if values.get("android") else values["system"].lower(),
        machine=_MACHINES.get(values["machine"], values["machine"]),
        name=values.get("name", ""),
        soc=soc or values.get("soc_name", ""),
        soc_id=soc_id,
        htp_arch=htp_arch,
        gpu=values.get("gpu", ""),
        gpu_driver=values.get("gpu_driver", ""),
        memory_bytes=_bytes(kilobytes["memory_kb"]),
        memory_free_bytes=_bytes(kilobytes["memory_free_kb"]),
        processors=_number(values.get("processors", "")),
        storage_free_bytes=transport.free_bytes(folder),
        temperature_c=max(believed, default=None),
        opencl=values.get("opencl", ""),
        fastrpc=values.get("fastrpc", ""),
        libc=values.get("libc", ""),
        lacks=tuple(lacks),
    )


def _known_soc(soc_id: int | None) -> tuple[str, int | None]:
    for name in list_specs() if soc_id is not None else ():
        spec = load_spec(name)
        if soc_id in spec.soc_ids:
            return spec.soc, spec.npu.htp_arch
    return "", None


def _celsius(text: str) -> float | None:
    """Kernels give thousandths of a degree, some vendors' whole degrees."""
    value = _number(text)
    if value is None:
        return None
    return value / 1000 if abs(value) >= 1000 else float(value)


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _bytes(kilobytes: int | None) -> int | None:
    return None if kilobytes is None else kilobytes * 1024
