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


def sharding_of(node: Node, placed: OpPlan) -> Sharding:
    """The rule by which a split operator is cut."""
    assert placed.split is not None, f"{node.name} is whole"
    return next(way for way in shardings(node.call) if way.axis == placed.split.axis)
