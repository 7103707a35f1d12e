"""A deployment as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hetero_tvm.deployment import Deployed

_HELD = {True: "held", False: "FAILED", None: "-"}


def deployed_text(done: Deployed, to: str) -> str:
    """Every part's test, what travelled, and how to run the model."""
    lines = [f"{'part':<8}{'test':<8}{'relative error':>15}  on"]
    for part in done.parts:
        worst = max((error.relative_error for error in part.errors), default=None)
        shown = "-" if worst is None else f"{worst:.2e}"
        lines.append(f"{part.part:<8}{_HELD[part.held]:<8}{shown:>15}  {part.words}")
    seconds = sum(done.seconds.values())
    footprint = sum(done.footprint.values())
    lines += [
        "",
        f"pushed {_megabytes(done.pushed_bytes)} of {_megabytes(done.there_bytes)}, "
        f"{seconds:.1f} s in all; program and libraries take {_megabytes(footprint)} there",
        f"there:  {done.command}",
        f"here:   hetero-tvm {done.run_here} {done.artefact} --to {to}",
    ]
    if done.no_opencl is not None:
        lines.append(f"FALLBACK: the CPU computes the whole model there: {done.no_opencl}")
    if done.no_npu is not None:
        lines.append(f"FALLBACK: the CPU computes the NPU's part there: {done.no_npu}")
    for artefact, why in done.instead_of:
        lines.append(f"FALLBACK: {done.artefact} is there in place of {artefact}: {why}")
    return "\n".join(lines)


def bundles_table(where: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """What is deployed on one device."""
    if not rows:
        return f"{where}: nothing is deployed"
    lines = [f"{'bundle':<28}{'model':<36}target"]
    for row in rows:
        lines.append(f"{row['name']:<28}{row.get('model', '-'):<36}{row.get('target', '-')}")
    return "\n".join(lines)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
