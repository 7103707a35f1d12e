"""Where every operator of a model runs, and why: plain frozen data, JSON there and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

DEVICES = ("cpu", "gpu", "npu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpPlan:
    """One operator's place."""

    name: str  # of the variable it is bound to, which names the ONNX node
    op: str  # "relax.matmul"
    device: str
    reason: str  # in words, with numbers
    cost_us: Mapping[str, float]  # device -> predicted time alone, for the devices that take it
    declined: Mapping[str, str]  # device -> why it does not take the operator
    macs: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """All operators' places in the order of the program, and what that is predicted to cost."""

    ops: tuple[OpPlan, ...]
    predicted_us: float  # the operators one after the other, with every hand-over
    handover_us: float  # the part of it that is hand-overs
    alternatives_us: Mapping[str, float]  # "gpu only", "npu only": the same, as far as possible

    @property
    def device(self) -> dict[str, str]:
        """Operator name -> device."""
        return {op.name: op.device for op in self.ops}

    @property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates on each device."""
        return {d: sum(op.macs for op in self.ops if op.device == d) for d in DEVICES}

    @property
    def device_us(self) -> dict[str, float]:
        """Predicted time in operators on each device."""
        return {d: sum(op.cost_us[d] for op in self.ops if op.device == d) for d in DEVICES}

    @property
    def refused(self) -> list[dict[str, str]]:
        """Every refusal of a device, operator by operator."""
        return [
            {"name": op.name, "op": op.op, "device": device, "reason": reason}
            for op in self.ops
            for device, reason in op.declined.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The plan as JSON text; `from_json` reads it back."""
        return json.dumps(self.to_dict(), indent=1)

    @staticmethod
    def from_json(text: str) -> Plan:
        """The plan that `to_json` wrote."""
        raw: dict[str, Any] = json.loads(text)
        return Plan(**{**raw, "ops": tuple(OpPlan(**op) for op in raw["ops"])})
