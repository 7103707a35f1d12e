"""Several targets of one artefact: whether they go together, and how it describes them.

The plan is the first one's, so all of them run the same kernels and regions; of a region each has a
binary of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hetero_tvm.errors import BadInput, TargetUnusable
from hetero_tvm.npu_compiler import session_options
from hetero_tvm.npu_targets import NpuTarget
from target_specs.spec import SocSpec

if TYPE_CHECKING:
    from hetero_tvm.build_state import State

# What kernels and regions are made by. Rates and latencies only decide about the plan.
_GPU = (
    "max_work_group_size",
    "local_memory_bytes",
    "wave_size",
    "half",
    "denormals",
    "vector_width",
)
_NPU = ("dtypes", "max_rank")


def check(specs: Sequence[SocSpec]) -> None:
    """Refuse targets that one plan's kernels and regions are not right for.

    Raises:
        BadInput: a target is named twice.
        TargetUnusable: one has no NPU of Qualcomm's, or differs in what code is made by.
    """
    first, *others = specs
    for index, spec in enumerate(others):
        if any(spec.name == before.name for before in specs[: index + 1]):
            raise BadInput(f"--target: {spec.name} is named twice")
        lacking = next((each for each in (first, spec) if each.npu.provider != "qnn"), None)
        if lacking is not None:
            raise TargetUnusable(
                f"--target: {lacking.name} has no NPU that is compiled for; build an artefact of "
                "its own for it"
            )
        for table, keys in (("gpu", _GPU), ("npu", _NPU)):
            for key in keys:
                ours, theirs = (getattr(getattr(each, table), key) for each in (first, spec))
                if ours != theirs:
                    raise TargetUnusable(
                        f"--target: {first.name} and {spec.name} differ in [{table}] {key} "
                        f"({ours} and {theirs}), by which code is made; build an artefact for each"
                    )


def targets(state: State) -> tuple[NpuTarget, ...]:
    """What the manifest says of the targets; none where the NPU is a stand-in."""
    specs = (state.spec, *state.others)
    if state.spec.npu.provider != "qnn":
        return ()
    return tuple(
        NpuTarget(
            name=spec.name,
            soc=spec.soc,
            htp_arch=spec.npu.htp_arch or 0,
            soc_ids=spec.soc_ids,
        )
        for spec in specs
    )


def described(spec: SocSpec) -> dict[str, Any]:
    """One target as the runtime's NPU module reads it."""
    return {
        "name": spec.name,
        "soc": spec.soc,
        "htp_arch": spec.npu.htp_arch or 0,
        "soc_ids": list(spec.soc_ids),
        "options": session_options(spec.npu),
    }
