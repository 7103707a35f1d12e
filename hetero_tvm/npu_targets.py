"""The chips that an artefact's NPU part is compiled for, and which of them a device is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hetero_tvm.errors import BadInput, WrongMachine


@dataclasses.dataclass(frozen=True, kw_only=True)
class NpuTarget:
    """One chip of an artefact."""

    name: str  # of the target, as `build --target` takes it
    soc: str
    htp_arch: int
    soc_ids: tuple[int, ...]  # what kernels call it

    @property
    def words(self) -> str:
        """For messages."""
        return f"{self.name} ({self.soc}, HTP v{self.htp_arch})"


def pick(
    targets: Sequence[NpuTarget], soc_id: int | None, wanted: str | None = None
) -> NpuTarget | None:
    """The target that a device is; the runtime picks by the same rule (`npu/targets.cc`).

    Args:
        targets: at least one.
        soc_id: what the device's kernel says; None where none does, as on a simulator: the first.
        wanted: the name of the one to take instead.

    Returns:
        None where the device is none of them.

    Raises:
        BadInput: `wanted` is none of them.
    """
    if wanted is not None:
        found = next((target for target in targets if target.name == wanted), None)
        if found is None:
            raise BadInput(f"no target {wanted} in it; there are {listing(targets)}")
        return found
    if soc_id is None:
        return targets[0]
    return next((t for t in targets if not t.soc_ids or soc_id in t.soc_ids), None)


def listing(targets: Sequence[NpuTarget]) -> str:
    """All of them, for messages."""
    return ", ".join(target.words for target in targets)


def require(
    where: str, targets: Sequence[NpuTarget], soc_id: int | None, wanted: str | None = None
) -> NpuTarget:
    """As `pick`; an error that names all of them where the device is none.

    Raises:
        BadInput: as `pick`.
        WrongMachine: it is none; `where` is the artefact.
    """
    found = pick(targets, soc_id, wanted)
    if found is None:
        raise WrongMachine(
            f"{where}: its NPU part is compiled for {listing(targets)}, this device is SoC "
            f"{soc_id}; build it with this device's --target"
        )
    return found
