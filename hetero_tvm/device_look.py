"""What a device's doctor sees by plain shell, before anything travels: drivers, rights, room.

Each check takes what the shell said and gives lines; so each can be asked about devices that are
not at hand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from hetero_tvm.device_facts import DeviceFacts
from hetero_tvm.doctor_checks import DEVICE, Result, Status
from hetero_tvm.transports.transport import Transport

_MIB = 1 << 20
# What a deployment needs is known once its libraries are; this much no device should be below.
_LEAST_STORAGE_BYTES = 256 * _MIB
_LEAST_MEMORY_BYTES = 256 * _MIB
_ANDROID = "android"

# KEY=VALUE lines, as `device_facts` has them. Nothing here fails where something is not there.
_SCRIPT = r"""
node() {
  key=$1; shift
  for f in "$@"; do
    [ -e "$f" ] || continue
    if [ -r "$f" ] && [ -w "$f" ]; then echo "${key}_node=$f"; else echo "${key}_closed=$f"; fi
  done
}
node gpu /dev/kgsl-3d0 /dev/dri/renderD*
node dsp /dev/fastrpc-cdsp /dev/fastrpc-cdsp-secure /dev/adsprpc-smd
for f in /etc/OpenCL/vendors/*.icd /vendor/etc/OpenCL/vendors/*.icd; do
  [ -r "$f" ] || continue
  library=$(head -n 1 "$f")
  case $library in /*) [ -e "$library" ] || echo "icd_broken=$f names $library" ;; esac
done
for l in libOpenCL libcdsprpc; do
  cat /vendor/etc/public.libraries*.txt /system/etc/public.libraries*.txt 2>/dev/null |
    grep -q "^$l" && echo "public=$l.so"
done
for d in /vendor/lib/rfsa/adsp /vendor/dsp/cdsp /usr/lib/rfsa/adsp /dsp/cdsp; do
  for f in "$d"/libQnnHtpV*Skel.so; do [ -e "$f" ] && echo "skel=$f"; done
done
for l in /system/bin/linker64 /lib64/ld-linux-*.so.? /lib/ld-linux-*.so.? /lib/ld-musl-*.so.?; do
  [ -x "$l" ] && { echo "loader=$l"; break; }
done
true
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What is there beside `DeviceFacts`."""

    gpu_nodes: tuple[str, ...] = ()  # device files of the GPU that the user may open
    gpu_closed: tuple[str, ...] = ()  # and those that they may not
    dsp_nodes: tuple[str, ...] = ()  # the same of the NPU
    dsp_closed: tuple[str, ...] = ()
    icd_broken: tuple[str, ...] = ()  # "FILE names LIBRARY", which is not there
    public: tuple[str, ...] = ()  # vendor's libraries that Android's namespaces let apps open
    skels: tuple[str, ...] = ()  # the NPU's libraries that the system image brings
    loader: str = ""  # the dynamic loader, which can say what a library lacks


def look(transport: Transport) -> Seen:
    """Ask the device. Raises DeviceFailure where it is not reached."""
    found: dict[str, list[str]] = {}
    for line in transport.check("sh -s", data=_SCRIPT.encode()).splitlines():
        key, _, value = line.partition("=")
        found.setdefault(key, []).append(value)

    def of(key: str) -> tuple[str, ...]:
        return tuple(found.get(key, ()))

    return Seen(
        gpu_nodes=of("gpu_node"),
        gpu_closed=of("gpu_closed"),
        dsp_nodes=of("dsp_node"),
        dsp_closed=of("dsp_closed"),
        icd_broken=of("icd_broken"),
        public=of("public"),
        skels=of("skel"),
        loader=next(iter(of("loader")), ""),
    )


def results(facts: DeviceFacts, seen: Seen, brought: Mapping[str, str]) -> Iterator[Result]:
    """One line for each thing that has to be right. `brought`: variables of our program there."""
    yield _device(facts)
    yield _tools(facts)
    yield from rooms(facts.memory_free_bytes, facts.memory_bytes, facts.storage_free_bytes)
    yield from _opencl(facts, seen, brought)
    yield _npu(facts, seen)
    if facts.system == _ANDROID:
        yield _namespaces(facts, seen)


def rooms(free: int | None, total: int | None, storage: int | None) -> Iterator[Result]:
    """Memory and storage; None: the device does not say."""
    for name, count, least, fix in (
        ("memory", free, _LEAST_MEMORY_BYTES, "end other programs there"),
        ("storage", storage, _LEAST_STORAGE_BYTES, "make room there, or name another --root"),
    ):
        if count is None:
            continue
        words = f"{count / 1e9:.1f} GB free"
        words += f" of {total / 1e9:.1f}" if name == "memory" and total else ""
        low = count < least
        facts = {"free_bytes": count}
        status: Status = "warn" if low else "ok"
        yield Result(name=name, status=status, words=words, fix=fix if low else "", facts=facts)


def _device(facts: DeviceFacts) -> Result:
    soc = facts.soc or ("no Snapdragon" if facts.soc_id is None else f"SoC {facts.soc_id}")
    about = (facts.name, facts.system, facts.machine, facts.libc, soc)
    found = {k: v for k, v in facts.to_dict().items() if isinstance(v, str | int | float)}
    return Result(name="device", status="ok", words=", ".join(filter(None, about)), facts=found)


def _tools(facts: DeviceFacts) -> Result:
    if not facts.lacks:
        return Result(name="shell", status="ok", words="has what a deployment needs")
    words = f"lacks {', '.join(facts.lacks)}"
    fix = "install coreutils, busybox or toybox there"
    return Result(name="shell", status="FAIL", words=words, fix=fix, exit_code=DEVICE)


def _opencl(facts: DeviceFacts, seen: Seen, brought: Mapping[str, str]) -> Iterator[Result]:
    name, gpu = "OpenCL library", facts.gpu or "GPU not named by its kernel"
    library = facts.opencl or next(
        (path for key, path in brought.items() if key.startswith("HETERO_OPENCL") and "LIB" in key),
        "",
    )
    if library:
        yield Result(name=name, status="ok", words=f"{library}; {gpu}")
    else:
        words = f"none found; {gpu}"
        fix = facts.missing()[0].partition(": ")[2]
        yield Result(name=name, status="FAIL", words=words, fix=fix, exit_code=DEVICE)
    for broken in seen.icd_broken:
        fix = "install that driver again, or remove the file"
        yield Result(name="OpenCL driver", status="warn", words=f"{broken}: gone", fix=fix)
    if seen.gpu_closed and not seen.gpu_nodes:
        words = f"{', '.join(seen.gpu_closed)}: this user may not open it"
        fix = "add the user to the groups of that file (ls -l; usermod -aG render,video USER)"
        yield Result(name="GPU device file", status="warn", words=words, fix=fix)
    elif seen.gpu_nodes:
        yield Result(name="GPU device file", status="ok", words=", ".join(seen.gpu_nodes))


def _npu(facts: DeviceFacts, seen: Seen) -> Result:
    name = "NPU driver"
    if facts.soc_id is None:
        words = "no Snapdragon: ONNX Runtime's CPU provider stands for the NPU"
        return Result(name=name, status="ok", words=words)
    problem = fix = ""
    if not facts.fastrpc:
        problem = "no libcdsprpc.so"
        fix = (
            "it comes with the vendor's system image (Debian and Ubuntu on Snapdragon: package "
            "libcdsprpc1 of fastrpc)"
        )
    elif not (seen.dsp_nodes or seen.dsp_closed):
        problem = f"{facts.fastrpc}, but no device file of the DSP (/dev/fastrpc-cdsp)"
        fix = "the kernel needs the fastrpc driver, and the DSP's firmware has to be running"
    elif not seen.dsp_nodes:
        problem = f"{', '.join(seen.dsp_closed)}: this user may not open it"
        fix = "add the user to the group of that file (ls -l), by a udev rule if it has none"
    elif facts.htp_arch is None:
        problem = f"SoC {facts.soc_id} is of no target here"
        fix = "write a TOML file for it, see target_specs/README.md"
    if problem:
        return Result(name=name, status="FAIL", words=problem, fix=fix, exit_code=DEVICE)
    words = f"{facts.fastrpc}, {', '.join(seen.dsp_nodes)}; HTP v{facts.htp_arch}"
    return Result(name=name, status="ok", words=words)


def _namespaces(facts: DeviceFacts, seen: Seen) -> Result:
    """Android's linker lets apps open only the libraries that the vendor names as public."""
    wanted: Sequence[str] = ["libOpenCL.so"] + ["libcdsprpc.so"] * (facts.soc_id is not None)
    hidden = [library for library in wanted if library not in seen.public]
    if not hidden:
        words = f"apps may open {', '.join(wanted)}, with <uses-native-library> in the manifest"
        return Result(name="namespaces", status="ok", words=words)
    words = f"{', '.join(hidden)}: not among the vendor's public libraries, so apps cannot open it"
    fix = "programs of adb's shell can, as `hetero-tvm deploy --to adb` starts them; for an app "
    fix += "the vendor has to name it in /vendor/etc/public.libraries.txt"
    return Result(name="namespaces", status="warn", words=words, fix=fix)


def skeleton(libraries: Mapping[str, str], arch: int | None, seen: Seen) -> Result:
    """The NPU's own side of its libraries. `libraries`: name -> path there, of what was pushed."""
    name = "skel files"
    if arch is None:
        return Result(name=name, status="ok", words="none needed: no Snapdragon")
    wanted = f"libQnnHtpV{arch}Skel.so"
    others = f"; the system image has {', '.join(seen.skels)}" if seen.skels else ""
    if wanted in libraries:
        words = f"{libraries[wanted]}, where ADSP_LIBRARY_PATH leads{others}"
        return Result(name=name, status="ok", words=words)
    fix = "pip install --force-reinstall onnxruntime-qnn here: `deploy` takes them from it"
    words = f"no {wanted}{others}"
    return Result(name=name, status="FAIL", words=words, fix=fix, exit_code=DEVICE)
