"""What keeps an artefact from running on a device: said before anything travels, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hetero_tvm import runtime
from hetero_tvm.bundle import Manifest
from hetero_tvm.device_facts import DeviceFacts
from hetero_tvm.errors import DeviceLacks, WrongMachine
from hetero_tvm.npu_targets import pick

_QNN = "onnxruntime-qnn"
_SIMULATES = "x86_64"  # Qualcomm's simulator runs there
_WITHOUT_NPU = "or build it with --devices gpu, and name that one behind --allow-fallback"


def on_device(manifest: Manifest, facts: DeviceFacts) -> Manifest:
    """The manifest as the target is told of it that the device is; as it is where it is none."""
    found = pick(manifest.targets, facts.soc_id) if manifest.targets else None
    return manifest if found is None else manifest.on(found)


def check_fits(path: Path, manifest: Manifest, facts: DeviceFacts) -> None:
    """Refuse what can never run there: see `check_opencl` and `check_npu` for the rest.

    Args:
        path: the artefact, for messages.
        manifest: what it needs.
        facts: what the device is and has.

    Raises:
        WrongMachine: its host code is for another processor.
        DeviceLacks: no tool for a deployment.
    """
    if manifest.host != facts.machine:
        raise WrongMachine(
            f"{path}: its host code is for {manifest.host}, {facts.where} is a {facts.machine}; "
            f"build it for that device"
        )
    if facts.lacks:
        raise DeviceLacks(f"{facts.where}: {'; '.join(facts.missing())}")


def check_opencl(facts: DeviceFacts, environment: Mapping[str, str]) -> None:
    """Refuse a device without OpenCL.

    Args:
        facts: what the device is and has.
        environment: variables that the artefact's program will have there.

    Raises:
        DeviceLacks: there is none.
    """
    named = any(name.startswith("HETERO_OPENCL") and "LIB" in name for name in environment)
    if not facts.opencl and not named:
        raise DeviceLacks(f"{facts.where}: {facts.missing()[0]}")


def check_npu(path: Path, manifest: Manifest, facts: DeviceFacts) -> None:
    """Refuse an NPU part that cannot run there.

    Args:
        path: the artefact, for messages.
        manifest: as `on_device` gives it.
        facts: what the device is and has.

    Raises:
        DeviceLacks: no NPU, or one of another architecture.
    """
    if manifest.npu_provider != "qnn" or not manifest.npu_regions:
        return
    chips = ", ".join(f"{one.soc} (HTP v{one.htp_arch})" for one in manifest.targets)
    chips = chips or f"{manifest.soc} (HTP v{manifest.htp_arch})"
    needs = f"{path}: its NPU part is for {chips}"
    if facts.soc_id is None:
        if facts.machine == _SIMULATES:
            return
        raise DeviceLacks(
            f"{needs}, and {facts.where} has no NPU of Qualcomm's that its kernel names; build it "
            f"for that device, {_WITHOUT_NPU}"
        )
    if manifest.soc_ids and facts.soc_id not in manifest.soc_ids:
        there = f"{facts.soc} (HTP v{facts.htp_arch})" if facts.soc else f"SoC {facts.soc_id}"
        raise DeviceLacks(
            f"{needs}, {facts.where} is {there}; build it with that device's --target, "
            f"{_WITHOUT_NPU}"
        )
    if not facts.fastrpc:
        raise DeviceLacks(f"{facts.where}: {'; '.join(facts.missing())}; {_WITHOUT_NPU}")


def check_qnn(path: Path, manifest: Manifest) -> None:
    """Refuse NPU regions that another version of Qualcomm's libraries than this machine's compiled.

    A context binary is what one version's compiler wrote for that version's libraries.

    Raises:
        DeviceLacks: the versions differ, or there is none here.
    """
    if manifest.npu_provider != "qnn" or not manifest.npu_regions:
        return
    built, here = manifest.versions.get(_QNN), runtime.package_version(_QNN)
    if here is not None and built != here:
        raise DeviceLacks(
            f"{path}: its NPU part was compiled with {_QNN} {built}, {here} is installed; rebuild "
            f"it, or pip install {_QNN}=={built}"
        )
