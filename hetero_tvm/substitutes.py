"""What an artefact's own substitutes must do on a device (`build --with-fallback`), and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from hetero_tvm.bundle import Manifest
from hetero_tvm.device_facts import DeviceFacts
from hetero_tvm.device_fit import check_npu, check_opencl, check_qnn
from hetero_tvm.device_os import this_os
from hetero_tvm.errors import DeviceLacks
from hetero_tvm.part_tests import PartTest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unfit:
    """Why the CPU does the work of other devices there; None: they do it."""

    npu: str | None = None  # its part of the model
    opencl: str | None = None  # the whole model

    def environment(self) -> dict[str, str]:
        """Variables for the device's program."""
        named = {"HETERO_NPU_UNFIT": self.npu, "HETERO_OPENCL_UNFIT": self.opencl}
        found = {name: why for name, why in named.items() if why is not None}
        return {"HETERO_ALLOW_FALLBACK": "1", **found} if found else {}

    def tests(self, tests: Sequence[PartTest]) -> list[PartTest]:
        """`tests`, without those of parts that are not used."""
        return [
            PartTest(part=test.part, why_not="a fallback")
            if self.opencl is not None or (self.npu is not None and test.part == "npu")
            else test
            for test in tests
        ]

    def lines(self) -> list[str]:
        """What is to be said of the device."""
        if self.opencl is not None:
            return [f"the CPU computes the model: {self.opencl}"]
        return [] if self.npu is None else [f"the CPU computes the NPU's part: {self.npu}"]

    def after(self, failed: Mapping[str, str], manifest: Manifest) -> Unfit | None:
        """The same once these parts have failed, each with why; None: nothing stands in for them.

        Where the GPU fails the CPU does all of it, as without OpenCL.
        """
        if not manifest.fallback or self.opencl is not None:
            return None
        if "gpu" in failed:
            return Unfit(opencl=f"its GPU failed: {failed['gpu']}")
        if "npu" in failed and manifest.npu_provider == "qnn" and self.npu is None:
            return Unfit(npu=f"its NPU failed: {failed['npu']}")
        return None


def by_facts(
    artefact: Path,
    manifest: Manifest,
    facts: DeviceFacts,
    environment: Mapping[str, str],
    *,
    allowed: bool,
) -> Unfit:
    """What the artefact's own substitutes must do there, by what is known of the device.

    Args:
        artefact: its path, for messages.
        manifest: as `device_fit.on_device` gives it.
        facts: what the device is and has.
        environment: variables that the artefact's program will have there.
        allowed: whether the user lets them.

    Raises:
        DeviceLacks: something is missing there, and nothing may do its work; with the next step.
    """

    def of_npu() -> None:
        check_npu(artefact, manifest, facts)
        if (manifest.os, manifest.host) == (this_os().system, this_os().machine):
            check_qnn(artefact, manifest)  # it gets the libraries of this machine

    def why_not(check: Callable[[], None], what: str) -> str | None:
        try:
            check()
        except DeviceLacks as error:
            if not manifest.fallback:
                raise
            if not allowed:
                raise DeviceLacks(f"{error}; or let its CPU {what} with --allow-fallback") from None
            return str(error)
        return None

    opencl = why_not(partial(check_opencl, facts, environment), "compute the model")
    return Unfit(opencl=opencl, npu=None if opencl else why_not(of_npu, "do that part"))
