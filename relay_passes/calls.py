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
    operators: tuple[str, ...]  # of the plan; those of parts are the names of `parts_of`
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpPart:
    """One of the two parts of an operator that is cut."""

    name: str  # of the binding that `split_tensor` makes
    of: str  # "npu", which has the first part, or "gpu": whose part of the cut it is
    device: str  # that computes it; the GPU also what it makes early for the NPU
    share: float  # of the operator, between 0 and 1
    us: float  # predicted; 0 of a plan without costs


def parts_of(op: OpPlan) -> tuple[OpPart, ...]:
    """The parts of an operator, the NPU's first; none of one that is whole."""
    cut = op.cut
    if cut is None:
        return ()
    early = op.split is None
    names = {"npu": "early", "gpu": "late"} if early else {"npu": "npu", "gpu": "gpu"}
    predicted = dict(zip(names, op.early_parts_us, strict=True)) if early else op.split_us
    return tuple(
        OpPart(
            name=f"{op.name}_{name}",
            of=of,
            device=op.device if early else of,
            share=(end - begin) / cut.extent,
            us=predicted.get(of, 0.0),
        )
        for of, name in names.items()
        for begin, end in (cut.of(of),)
    )
