"""How much memory building and loading a model will take, before either is tried.

Weights and activations are counted exactly: activations as the most bytes that live at once when
operators run in the order of the program. What processes take beside them was measured:

    build   BUILD_BASE + BUILD_PER_WEIGHT x weights     (peak of `build --json`, target host)
    load    LOAD_BASE + LOAD_PER_WEIGHT x weights + activations

Of a plan the same is told device by device. Weights are then what a device's operators, or its
parts of them, read in the form that it has them in; activations what it reads or writes. Devices
share one memory, so their activations are not to be added up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tvm import relax
from tvm.ir import GenericConst

from relay_passes.constants import values_of
from relay_passes.live_memory import live_bytes, shown_by, weight_bytes
from relay_passes.npu_support import held_bytes, window_bytes
from relay_passes.npu_window import largest_region
from relay_passes.op_work import tensor_args
from relay_passes.part_work import part_work
from relay_passes.plan import DEVICES, Plan
from relay_passes.program import Node
from schedules.cost_model import takes_codes
from target_specs.spec import NpuSpec

# Peak resident memory, x86-64, Python 3.11, Intel's OpenCL, target host: `build --json` took
# 1674 and 3029 MB for perceptrons with 134 and 268 MB of weights; `bench --json` of these artefacts
# 924 and 1299 MB, of MiniLM (69 MB) 678 MB. What compilers take for code is within the base.
BUILD_BASE_BYTES = 400_000_000
BUILD_PER_WEIGHT_BYTE = 10.0
LOAD_BASE_BYTES = 520_000_000
LOAD_PER_WEIGHT_BYTE = 2.8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
    """Bytes; `build` and `load` are estimates, the rest is counted."""

    weights: int
    largest_weight: int
    activations: int  # the most that live at once
    build: int  # peak of the process that builds
    load: int  # of the process that runs it
    npu_window: int | None  # what one of the NPU's processes can address; None: no bound
    npu_weights: int  # of the operators that it takes, as it holds them
    gpu_weights: int  # of the operators that the GPU takes
    npu_parts: int | None  # regions that the NPU's weights need at least; None: no bound


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """Bytes of one device."""

    weights: int
    activations: int  # the most that live at once of what it reads or writes


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanMemory:
    """Bytes of a plan; `build` and `load` are estimates, the rest is counted."""

    devices: Mapping[str, DeviceMemory]  # "gpu", "npu", "cpu": those that the plan uses
    activations: int  # the most that live at once, all devices together
    weights: int  # of the model, each once
    npu_regions: int
    npu_largest_region: int  # weights, border and what lives inside
    npu_window: int | None  # what one of the NPU's processes can address; None: no bound
    build: int
    load: int


def forecast(nodes: Sequence[Node], on: Mapping[str, Mapping[str, bool]], npu: NpuSpec) -> Forecast:
    """For a program of which device `d` would take the operators with `on[d][name]`."""
    weights = weight_bytes(nodes)
    sizes = list(weights.values())
    taken = {d: [n for n in nodes if on.get(d, {}).get(n.name)] for d in ("gpu", "npu")}
    held = sum(held_bytes(constant, npu) for constant in weight_bytes(taken["npu"]))
    live = live_bytes(nodes)
    total = sum(sizes)
    window = window_bytes(npu)
    return Forecast(
        weights=total,
        largest_weight=max(sizes, default=0),
        activations=live,
        build=_build(total),
        load=_load(total, live),
        npu_window=window,
        npu_weights=held,
        gpu_weights=sum(weight_bytes(taken["gpu"]).values()),
        npu_parts=None if window is None else -(-held // window),
    )


def plan_memory(
    nodes: Sequence[Node], plan: Plan, npu: NpuSpec, packed: Mapping[str, float]
) -> PlanMemory:
    """What `plan` needs on each device.

    Args:
        nodes: its operators, before any is cut.
        plan: where they run.
        npu: says in what form it holds weights, and how much it can address.
        packed: operator -> what a device reads of its weight in few bits, as a share
            (`CostModel.packed`).
    """
    weights = sum(weight_bytes(nodes).values())
    live = live_bytes(nodes)
    used = [device for device in DEVICES if any(op.share(device) for op in plan.ops)]
    return PlanMemory(
        devices={
            device: DeviceMemory(
                weights=_device_weights(nodes, plan, device, npu, packed),
                activations=live_bytes(nodes, _touched(nodes, plan, device)),
            )
            for device in used
        },
        activations=live,
        weights=weights,
        npu_regions=plan.regions,
        npu_largest_region=largest_region(nodes, plan, npu),
        npu_window=window_bytes(npu),
        build=_build(weights),
        load=_load(weights, live),
    )


def _build(weights: int) -> int:
    return round(BUILD_BASE_BYTES + BUILD_PER_WEIGHT_BYTE * weights)


def _load(weights: int, activations: int) -> int:
    return round(LOAD_BASE_BYTES + LOAD_PER_WEIGHT_BYTE * weights + activations)


def _device_weights(
    nodes: Sequence[Node], plan: Plan, device: str, npu: NpuSpec, packed: Mapping[str, float]
) -> int:
    """Constants that the device's operators read, each once, in the form it has them in."""
    held: dict[relax.Expr, int] = {}
    for node, placed in zip(nodes, plan.ops, strict=True):
        work = part_work(node, placed, device)
        if work is None:
            continue
        whole = node.work.weight_bytes
        share = work.weight_bytes / whole if whole else 1.0
        by_codes = device == "gpu" or takes_codes(npu, work.rows)
        narrowed = packed.get(node.name) if by_codes else None
        share *= narrowed or 1.0
        for arg in tensor_args(node.call):
            if isinstance(arg, GenericConst):
                own = int(values_of(arg).nbytes)
                if device == "npu" and narrowed is None:
                    own = held_bytes(arg, npu)
                held[arg] = max(held.get(arg, 0), round(share * own))
    return sum(held.values())


def _touched(nodes: Sequence[Node], plan: Plan, device: str) -> set[str]:
    """Operators whose results the device writes or reads; a view's are what it shows."""
    shows = shown_by(nodes)
    found: set[str] = set()
    for node, placed in zip(nodes, plan.ops, strict=True):
        if placed.share(device):
            found |= {shows.get(name, name) for name in (node.name, *node.inputs)}
    return found
