"""What a build knows, from phase to phase."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tvm
from tvm import IRModule, relax

from hetero_tvm import frontend, npu_compiler
from hetero_tvm.config import BuildConfig
from hetero_tvm.plan_regions import Region
from hetero_tvm.weights import WeightStore
from relay_passes.calls import Call
from relay_passes.lower_npu import NpuRegion
from relay_passes.memory_table import MemoryTable
from relay_passes.place import MODES
from relay_passes.plan import Plan
from relay_passes.split_tensor import Splitted
from schedules.cost_model import CostModel
from schedules.layout import Panels, panels_of
from schedules.tuned import Use
from schedules.w4a16 import takes
from schedules.w4a16_table import W4Table
from target_specs.spec import SocSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """What is known about the build so far; a phase returns a new one."""

    config: BuildConfig
    spec: SocSpec
    note: Callable[[str], None]
    costs: CostModel | None = None  # of operators by themselves; None: the spec's
    weights: WeightStore | None = None  # where large ones go; None: they stay where they are used
    panels: Panels = panels_of  # of weights that GPU kernels read
    model: frontend.ImportedModel | None = None
    mod: IRModule = dataclasses.field(default_factory=IRModule)
    unfit: Mapping[str, str] = dataclasses.field(default_factory=dict)  # operator -> why not NPU
    plans: Mapping[str, Plan] = dataclasses.field(default_factory=dict)  # of each `place.MODES`
    prices: Mapping[str, CostModel] = dataclasses.field(default_factory=dict)  # of each plan
    plan: Plan | None = None  # the one of these that is followed
    done: frozenset[str] = frozenset()  # phases to come that have been run already
    # Mode -> the NPU regions of its plan, as the vendor estimates them; where they were estimated.
    estimated: Mapping[str, tuple[Region, ...]] = dataclasses.field(default_factory=dict)
    cut: Splitted | None = None  # what split operators became
    regions: tuple[NpuRegion, ...] = ()
    compiled: tuple[npu_compiler.CompiledRegion, ...] = ()  # the regions, as the NPU loads them
    npu_files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)  # of `compiled`
    others: tuple[SocSpec, ...] = ()  # further targets, of `config.more_targets`
    whole: tuple[NpuRegion, ...] = ()  # the model itself, for a CPU: see `fallback`
    npu_compiler_bytes: int = 0  # memory that the vendor's compiler took at most
    # Function -> the plan that it follows; empty: `main`, and `plan`.
    function_plans: Mapping[str, Plan] = dataclasses.field(default_factory=dict)
    kernels: tuple[Use, ...] = ()  # what a database of tuned kernels did; without one nothing
    executable: relax.VMExecutable | None = None
    # Function -> what it calls, in order: of all functions, once there is code for them.
    calls: Mapping[str, tuple[Call, ...]] = dataclasses.field(default_factory=dict)
    memory: Mapping[str, MemoryTable] = dataclasses.field(default_factory=dict)  # of the same
    record: Mapping[str, Any] | None = None  # how the program was placed; see `build_record`
    # Function -> its record; empty: `main`, and `record`.
    function_records: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def four_bit(self) -> W4Table:
        """The 4- and 8-bit weights that some of the model's float constants came from.

        Only those that the GPU has kernels for: what it cannot read so is not priced so, and of
        eight bits no NPU was tried but the host's stand-in.
        """
        blocks = self.model.four_bit if self.model is not None else ()
        gpu = self.spec.gpu
        return W4Table(one for one in blocks if takes(gpu, one.depth, one.group, one.bits))


def mode(config: BuildConfig) -> str:
    """Which of `place.MODES` the build follows."""
    if config.devices == "gpu+npu":
        return "split" if config.split else "layer"
    return config.devices


def allowed_modes(config: BuildConfig) -> tuple[str, ...]:
    """Those of `place.MODES` whose plans the build may follow."""
    followed = mode(config)
    return (followed,) if followed in ("gpu", "npu") else MODES[: MODES.index(followed) + 1]


def applied(step: Any, mod: IRModule) -> IRModule:
    """`mod` after one pass."""
    return tvm.transform.Sequential([step])(mod)
