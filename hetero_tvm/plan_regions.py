"""The NPU regions of a plan, each as the vendor estimates its very graph.

The estimate is laid out to the region's operators (`schedules.npu_region_costs`), which is how it
becomes their price.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from relay_passes.lower_npu import NpuRegion, TensorSpec
from relay_passes.op_work import Work, dtype_bytes
from schedules.cost_model import CostModel
from schedules.npu_estimate import NpuEstimate, estimate_models
from schedules.npu_profile import NoEstimate
from schedules.npu_region_costs import RegionCost, lay_out

_TIMEOUT_S = 300.0  # for one region
# ONNX Runtime and QNN put words of their own behind the names of nodes and tensors: n25 and what
# follows it is `n25/MatMulAddFusion_2`, a reshape of its result t25 is `t25Reshape`.
_OURS = re.compile(r"[nt](\d+)(?!\d)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Region:
    """One NPU region: the model's prediction beside the vendor's estimate, without launch."""

    symbol: str
    operators: tuple[str, ...]  # names as the plan has them
    alone_us: Mapping[str, float]  # those that compute -> as predicted one by one
    border_us: float  # as predicted: inputs and outputs through on-chip memory
    estimate: NpuEstimate | NoEstimate
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Operator -> its share of the estimate by the trace; empty where there is none."""
    spills: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Operator -> bytes that left the chip for want of room while it ran, and came back."""

    @property
    def operators_us(self) -> float:
        """As predicted one by one."""
        return sum(self.alone_us.values())

    @property
    def predicted_us(self) -> float:
        """What the vendor's estimate is comparable with."""
        return self.operators_us + self.border_us

    @property
    def ratio(self) -> float | None:
        """Estimated over predicted."""
        if isinstance(self.estimate, NoEstimate) or self.predicted_us == 0:
            return None
        return self.estimate.us / self.predicted_us

    @property
    def counts(self) -> bool:
        """Whether the estimate prices the region: there is one, and no lower bound below ours."""
        if isinstance(self.estimate, NoEstimate):
            return False
        return not self.estimate.profile.missing_ops or self.estimate.us >= self.predicted_us

    def costs(self) -> dict[str, RegionCost]:
        """Operator -> how its price changes by the estimate; none where it does not count."""
        if isinstance(self.estimate, NoEstimate) or not self.counts:
            return {}
        missing = self.estimate.profile.missing_ops
        found = lay_out(
            self.estimate.us,
            self.border_us,
            self.alone_us,
            self.shares,
            lower_bound=missing > 0,
        )
        bound = f", a lower bound: {missing} without a cost" if missing else ""
        why = (
            f"its part of Qualcomm's estimate of a region of {len(self.operators)} operators, for "
            f"{self.estimate.proxy.name}{bound}; {self.estimate.scale.rule}"
        )
        return {
            name: RegionCost(factor=us / self.alone_us[name], why=why, lower_bound=missing > 0)
            for name, us in found.items()
            if self.alone_us[name] > 0
        }

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "symbol": self.symbol,
            "operators": list(self.operators),
            "predicted": {
                "us": self.predicted_us,
                "operators_us": self.operators_us,
                "border_us": self.border_us,
                "provenance": "modelled",
            },
            "estimated": _estimate_dict(self.estimate),
            "ratio": self.ratio,
            "provenance": "vendor-estimated" if self.counts else "modelled",
            "shares": dict(self.shares),
            "spills": dict(self.spills),
        }


def estimate_regions(
    regions: Sequence[NpuRegion],
    works: Mapping[str, Work],
    costs: CostModel,
    *,
    cache_dir: Path | None,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[Region, ...]:
    """`regions` of one plan, each estimated.

    Args:
        regions: as `lower_npu` makes them.
        works: operator -> what the NPU does of it in this plan.
        costs: of operators by themselves; its `npu_regions` are not looked at.
        cache_dir: where estimates are kept; None keeps none.
        progress: called with a line whenever a region is estimated.

    Raises:
        EstimateUnavailable: the vendor's compiler is not installed.
    """
    alone = dataclasses.replace(costs, npu_regions={})
    estimates = estimate_models(
        {region.symbol: region.onnx for region in regions},
        costs.spec.npu,
        cache_dir=cache_dir,
        progress=progress,
        timeout_s=_TIMEOUT_S,
        trace=True,
    )
    return tuple(_region(region, works, alone, estimates[region.symbol]) for region in regions)


def _region(
    region: NpuRegion,
    works: Mapping[str, Work],
    alone: CostModel,
    estimate: NpuEstimate | NoEstimate,
) -> Region:
    # A part has a name of its own; what moves data between parts is no operator of the program.
    whole_of = {name: name for name in works} | {f"{name}_npu": name for name in works}
    names = {name: whole_of[name] for name in region.names if name in whole_of}
    shares: dict[str, float] = {}
    spills: dict[str, int] = {}
    if isinstance(estimate, NpuEstimate):
        for node, share in estimate.profile.node_shares.items():
            name = names.get(_binding(region, node))
            if name is not None:
                shares[name] = shares.get(name, 0.0) + share
        for node, nbytes in estimate.profile.node_spills.items():
            name = names.get(_binding(region, node))
            if name is not None:
                spills[name] = spills.get(name, 0) + nbytes
    border = sum(
        _nbytes(tensor) * alone.waiting(element_bytes=dtype_bytes(tensor.dtype)).border_us_per_byte
        for tensor in (*region.inputs, *region.outputs)
    )
    return Region(
        symbol=region.symbol,
        operators=region.names,
        alone_us={
            name: alone.cost_us(works[name], "npu")
            for name in names.values()
            if works[name].kind != "view"
        },
        border_us=border,
        estimate=estimate,
        shares=shares,
        spills=spills,
    )


def _binding(region: NpuRegion, qnn_name: str) -> str:
    """The binding whose node QNN calls so; "" where it is none of ours."""
    ours = _OURS.match(qnn_name)
    return region.maker.get(f"n{ours[1]}", "") if ours else ""


def _nbytes(tensor: TensorSpec) -> int:
    return math.prod(tensor.shape) * dtype_bytes(tensor.dtype)


def _estimate_dict(estimate: NpuEstimate | NoEstimate) -> dict[str, Any]:
    if isinstance(estimate, NoEstimate):
        return {"us": None, "reason": estimate.reason}
    low, high = estimate.interval_us
    return {
        "us": estimate.us,
        "low_us": low,
        "high_us": high,
        "provenance": "vendor-estimated",
        "proxy": {
            "soc": estimate.proxy.name,
            "soc_model": estimate.proxy.soc_model,
            "htp_arch": estimate.proxy.htp_arch,
            "why": estimate.proxy_why,
            "unscaled": dataclasses.asdict(estimate.profile),
        },
        "scale": {"factor": estimate.scale.factor, "rule": estimate.scale.rule},
        "cached": estimate.cached,
    }
