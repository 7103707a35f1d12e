"""What one device does of an operator, as a plan has it."""

from __future__ import annotations

from relay_passes.op_work import Work
from relay_passes.plan import OpPlan
from relay_passes.program import Node
from relay_passes.sharding import Sharding, shard_work, shardings


def part_work(node: Node, placed: OpPlan, device: str) -> Work | None:
    """The work of `device`; None where it has none of the operator."""
    if placed.split is None:
        return node.work if placed.device == device else None
    if device not in ("gpu", "npu"):
        return None
    return shard_work(node.call, node.work, sharding_of(node, placed), placed.split.cut, device)


def early_works(node: Node, placed: OpPlan) -> tuple[Work, Work]:
    """Of what the GPU computes in two parts: the work of the first, and that of the second."""
    assert placed.early is not None, f"{node.name} is computed as a whole"
    sharding = sharding_of(node, placed)
    first, second = (
        shard_work(node.call, node.work, sharding, placed.early, of) for of in ("npu", "gpu")
    )
    return first, second


def sharding_of(node: Node, placed: OpPlan) -> Sharding:
    """The rule by which an operator is cut."""
    cut = placed.cut
    assert cut is not None, f"{node.name} is whole"
    return next(way for way in shardings(node.call) if way.axis == cut.axis)
