"""Where every operator of a model runs, and why: plain frozen data, JSON there and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from relay_passes.planner.problem import DEVICES, Cut, Kind

__all__ = ["DEVICES", "Offer", "OpPlan", "Plan", "Split", "Wait"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """One operator on both devices: elements [0, at) of `axis` on the NPU, the rest on the GPU."""

    kind: Kind  # "weight": output channels; "activation": rows; "hybrid": both
    axis: int  # of the result
    at: int
    extent: int

    @property
    def cut(self) -> Cut:
        """As the planner has it."""
        return Cut(self.axis, self.at, self.extent)

    @property
    def npu_share(self) -> float:
        """Between 0 and 1."""
        return self.at / self.extent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offer:
    """A split that could have been chosen, and what each device's part would take."""

    split: Split
    us: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpPlan:
    """One operator's place."""

    name: str  # of the variable it is bound to, which names the ONNX node
    op: str  # "relax.matmul"
    device: str  # "cpu", "gpu", "npu", or "gpu+npu" where it is split
    reason: str  # in words, with numbers
    cost_us: Mapping[str, float]  # device -> predicted time alone, for the devices that take it
    declined: Mapping[str, str]  # device -> why it does not take the operator
    macs: int
    split: Split | None = None
    region: int | None = None  # on the NPU: the region that it, or its NPU part, is in
    split_us: Mapping[str, float] = dataclasses.field(default_factory=dict)  # device -> its part
    early: Cut | None = None  # the GPU computes it in two parts, first the one that the NPU reads
    early_us: tuple[float, ...] = ()  # of both parts, in their order
    offers: tuple[Offer, ...] = ()  # every split that was considered

    @property
    def cut(self) -> Cut | None:
        """How it is computed in two parts, on two devices or on one; None: as a whole."""
        return self.split.cut if self.split is not None else self.early

    def early_dict(self) -> dict[str, Any] | None:
        """What is computed early as plain data: where it is cut, and the times of both parts."""
        if self.early is None:
            return None
        return {**dataclasses.asdict(self.early), "us": list(self.early_parts_us)}

    @property
    def early_parts_us(self) -> tuple[float, float]:
        """Of what is computed early and of the rest; by their size where the plan does not say."""
        assert self.early is not None, f"{self.name} is computed as a whole"
        if self.early_us:
            return self.early_us[0], self.early_us[1]
        us, share = self.cost_us.get(self.device, 0.0), float(self.early.share)
        return share * us, (1 - share) * us

    def share(self, device: str) -> float:
        """How much of the operator `device` computes, between 0 and 1."""
        if self.split is not None:
            return {"npu": self.split.npu_share, "gpu": 1 - self.split.npu_share}.get(device, 0.0)
        return float(self.device == device)

    def part_us(self, device: str) -> float:
        """Predicted time of what `device` computes of the operator; 0 in a plan without costs."""
        if self.split is not None:
            return self.split_us.get(device, 0.0)
        if self.early is not None and self.device == device:
            return sum(self.early_parts_us)
        return self.cost_us.get(device, 0.0) if self.device == device else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wait:
    """One device waits for another."""

    waiter: str
    on: str
    before: str  # the operator that needs it; "" for the model's outputs
    us: float  # that the waiter stands still


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """All operators' places in the order of the program, and what that is predicted to cost."""

    ops: tuple[OpPlan, ...]
    predicted_us: float  # from the first operator's start to the last one's end
    waits: tuple[Wait, ...] = ()
    border_bytes: float = 0.0  # that NPU regions read and write outside the chip
    bound_us: float = 0.0  # no plan is faster than this
    exact: bool = True  # no plan of those considered is faster than this one
    alternatives_us: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """"gpu", "npu", "layer", "split": predictions of the best plan of that kind."""
    measured_us: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The same, but measured on the machine that it was built on; empty where nothing was."""
    busy_us: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Device -> all that it does: operators, starts of regions, borders; all but waiting."""
    joules: float | None = None  # of GPU and NPU at work; None where their power is not known
    objective: str = "latency"  # what was minimised: "latency", "energy" or "edp", their product
    breaks: tuple[str, ...] = ()
    """Operators before which a region of the NPU is cut, since the whole outgrew the chip."""

    @property
    def device(self) -> dict[str, str]:
        """Operator name -> device, "gpu+npu" for both."""
        return {op.name: op.device for op in self.ops}

    @property
    def places(self) -> tuple[object, ...]:
        """What makes two plans of one program the same program to build."""
        return tuple((op.device, op.split, op.early, op.region) for op in self.ops)

    @property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates on each device."""
        return {d: round(sum(op.macs * op.share(d) for op in self.ops)) for d in DEVICES}

    @property
    def device_us(self) -> dict[str, float]:
        """Predicted time in operators on each device."""
        return {d: sum(op.part_us(d) for op in self.ops) for d in DEVICES}

    @property
    def regions(self) -> int:
        """Jobs of the NPU."""
        return len({op.region for op in self.ops} - {None})

    @property
    def split_share(self) -> float:
        """Of all multiply-accumulates, those of operators that both devices compute."""
        total = sum(op.macs for op in self.ops)
        return sum(op.macs for op in self.ops if op.split is not None) / total if total else 0.0

    @property
    def gap(self) -> float:
        """How much longer than the best plan this one takes, at most: 0.03 is three per cent."""
        if self.exact and self.objective == "latency":
            return 0.0
        return max(0.0, self.predicted_us / self.bound_us - 1) if self.bound_us else float("inf")

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
        ops = tuple(_op_from(op) for op in raw["ops"])
        waits = tuple(Wait(**wait) for wait in raw["waits"])
        return Plan(**{**raw, "ops": ops, "waits": waits, "breaks": tuple(raw["breaks"])})


def _op_from(raw: dict[str, Any]) -> OpPlan:
    split = raw["split"]
    offers = tuple(Offer(split=Split(**o["split"]), us=o["us"]) for o in raw["offers"])
    early = raw.get("early")  # artefacts of older versions have none
    early = None if early is None else Cut(**early)
    early_us = tuple(raw.get("early_us", ()))
    split = None if split is None else Split(**split)
    read = {"split": split, "early": early, "early_us": early_us, "offers": offers}
    return OpPlan(**{**raw, **read})
