"""A plan's totals, and what its predictions rest on, as plain data."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from relay_passes.gpu_fusion import gpu_works, kernel_mates
from relay_passes.plan import DEVICES, Plan
from relay_passes.program import Node
from schedules.cost_model import CostModel
from target_specs.spec import Origin, SocSpec

MODELLED = "modelled"  # computed from the spec's figures; totals always are
_PLACES = (*DEVICES, "gpu+npu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RestsOn:
    """What the predicted times of a plan rest on; a view rests on nothing."""

    figures: tuple[Origin, ...]  # of the target's spec
    figure_of: Mapping[tuple[str, str], int]  # operator, device -> index in `figures`
    provenance_of: Mapping[tuple[str, str], str]  # operator, device -> of the predicted time


def mode_dict(plan: Plan, provenance: str = MODELLED) -> dict[str, Any]:
    """A plan's totals as plain data."""
    placed = [op.device for op in plan.ops]
    pairs: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for wait in plan.waits:
        pairs[wait.waiter, wait.on].append(wait.us)
    return {
        "predicted_us": plan.predicted_us,
        "provenance": provenance,
        "operators": {place: placed.count(place) for place in _PLACES},
        "busy_us": dict(plan.busy_us),
        "device_us": plan.device_us,
        "macs": plan.macs,
        "split_share": plan.split_share,
        "npu_regions": plan.regions,
        "border_bytes": round(plan.border_bytes),
        "waits": {
            "count": len(standing_still(plan)),
            "us": sum(standing_still(plan)),
            "pairs": [
                {"waiter": waiter, "on": on, "count": len(us), "us": sum(us)}
                for (waiter, on), us in sorted(pairs.items())
            ],
        },
        "exact": plan.exact,
        "bound_us": plan.bound_us,
        "gap": plan.gap,
        "joules": plan.joules,
    }


def standing_still(plan: Plan) -> list[float]:
    """How long GPU and NPU stand still at each of their waits, in µs.

    The CPU is left out: at the end it waits for the outputs, as long as the whole run takes.
    """
    return [wait.us for wait in plan.waits if wait.waiter != "cpu"]


def rests_on(nodes: Iterable[Node], plan: Plan, costs: CostModel) -> RestsOn:
    """The spec's figures behind the predictions of `plan` for `nodes`, and what these are."""
    index: dict[Origin, int] = {}
    figure_of: dict[tuple[str, str], int] = {}
    provenance_of: dict[tuple[str, str], str] = {}
    nodes = list(nodes)
    works = gpu_works(nodes, kernel_mates(nodes))
    for work, op in zip(works, plan.ops, strict=True):
        if work.kind == "view":
            continue
        for device in op.cost_us:
            origin = costs.origin(work, device)
            figure_of[op.name, device] = index.setdefault(origin, len(index))
            provenance_of[op.name, device] = costs.provenance(work, device)
    return RestsOn(figures=tuple(index), figure_of=figure_of, provenance_of=provenance_of)


def waiting_figures(spec: SocSpec) -> dict[str, tuple[float, Origin]]:
    """The spec's figures behind waits, starts of regions, and their borders."""
    tables = {"gpu": spec.gpu, "npu": spec.npu, "memory": spec.memory}
    keys = (
        ("gpu", "flag_us"),
        ("npu", "flag_us"),
        ("npu", "handover_us"),
        ("npu", "submit_us"),
        ("memory", "one_device_gbps"),
        ("memory", "two_devices_gbps"),
    )
    return {
        f"{table}.{key}": (getattr(tables[table], key), tables[table].origin(key))
        for table, key in keys
    }
