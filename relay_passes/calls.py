"""One call of a kernel or a region, and what of the model it computes: plain frozen data."""

from __future__ import annotations

import dataclasses

from relay_passes.plan import OpPlan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One tensor that a call writes: the value of an operator of the plan, or of a part of one."""

    operator: str
    shape: tuple[int, ...]  # as it lies in memory, which may be another order of axes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a kernel or a region."""

    symbol: str
    device: str  # "cpu", "gpu" or "npu"
    operators: tuple[str, ...]  # of the plan; `part_names` are those of parts
    results: tuple[Result, ...]
    macs: int
    bytes: int  # of all tensors read and written, each once; of a region: weights and border
    # Of a call without operators, which a pass has added (a change of layout, a padding): the
    # operator that first reads what it writes, else the one whose value it rewrites.
    serves: str = ""

    @property
    def about(self) -> str:
        """What it computes, in a word: its last operator, or whom it is for."""
        return self.operators[-1] if self.operators else f"for {self.serves}" if self.serves else ""


def part_names(op: OpPlan) -> dict[str, str]:
    """Device -> what `split_tensor` calls its part of an operator; empty for one that is whole."""
    return {device: f"{op.name}_{device}" for device in ("npu", "gpu")} if op.split else {}
