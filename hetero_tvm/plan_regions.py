"""The NPU regions of a plan: the cost model's prediction beside the vendor's estimate."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from hetero_tvm import pipeline
from hetero_tvm.errors import EnvironmentProblem
from relay_passes.lower_npu import TensorSpec
from relay_passes.op_work import dtype_bytes
from schedules.cost_model import CostModel
from schedules.npu_estimate import EstimateUnavailable, NpuEstimate, estimate_models
from schedules.npu_profile import NoEstimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Region:
    """One NPU region: the model's prediction beside the vendor's estimate, without launch."""

    symbol: str
    operators: tuple[str, ...]  # names as the plan has them
    operators_us: float  # as predicted
    border_us: float  # as predicted: inputs and outputs through on-chip memory
    estimate: NpuEstimate | NoEstimate

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
        }


def estimate_regions(state: pipeline.State, costs: CostModel) -> tuple[Region, ...]:
    """The regions of `state`'s plan, each estimated.

    Requires: `state` as the pipeline leaves it after placing.

    Raises:
        EnvironmentProblem: the vendor's compiler is not installed.
    """
    plan = state.plan
    assert plan is not None, "regions come from a plan"
    for phase in pipeline.PHASES:
        if phase.name in ("split", "group", "lower_npu"):
            state = phase.run(state)
    try:
        estimates = estimate_models(
            {region.symbol: region.onnx for region in state.regions},
            state.spec.npu,
            cache_dir=state.config.cache_dir,
            progress=state.note,
        )
    except EstimateUnavailable as error:
        raise EnvironmentProblem(f"--estimate: {error}") from None
    # Parts have names of their own; what moves data between them has no price of its own.
    npu_us = {
        f"{op.name}_npu" if op.split is not None else op.name: op.part_us("npu") for op in plan.ops
    }
    return tuple(
        Region(
            symbol=region.symbol,
            operators=region.names,
            operators_us=sum(npu_us.get(name, 0.0) for name in region.names),
            border_us=sum(
                _nbytes(tensor)
                * costs.waiting(element_bytes=dtype_bytes(tensor.dtype)).border_us_per_byte
                for tensor in (*region.inputs, *region.outputs)
            ),
            estimate=estimates[region.symbol],
        )
        for region in state.regions
    )


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
