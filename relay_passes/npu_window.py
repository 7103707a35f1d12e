"""Where the NPU's regions have to be cut so that each fits into what its processor can address.

A region takes its constants, the tensors that cross its border, and the most that lives at once
between its operators. Counted from above: of an operator that is cut the whole result counts.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence

from tvm import relax
from tvm.ir import GenericConst

from relay_passes.live_memory import live_bytes
from relay_passes.npu_support import held_bytes, window_bytes
from relay_passes.op_work import dtype_bytes, op_work, static_shape, tensor_args
from relay_passes.part_work import part_work
from relay_passes.plan import OpPlan, Plan
from relay_passes.program import Node
from target_specs.spec import NpuSpec

Members = Sequence[tuple[Node, OpPlan]]  # operators of one region, in the order of the program


def window_breaks(nodes: Sequence[Node], plan: Plan, npu: NpuSpec) -> tuple[str, ...]:
    """Operators before which a region of `plan` is to be cut; none where every region fits.

    Requires: no operator's constants alone are too many (`npu_support.decline_reason`).
    """
    limit = window_bytes(npu)
    if limit is None:
        return ()
    readers = _readers(nodes)
    found: list[str] = []
    for members in regions_of(nodes, plan).values():
        if _at_most(members, npu) <= limit:
            continue
        start = 0
        for at in range(1, len(members)):
            if region_bytes(members[start : at + 1], readers, npu) > limit:
                found.append(members[at][0].name)
                start = at
    return tuple(found)


def largest_region(nodes: Sequence[Node], plan: Plan, npu: NpuSpec) -> int:
    """Bytes of the region that takes most; 0 without any."""
    readers = _readers(nodes)
    regions = regions_of(nodes, plan).values()
    return max((region_bytes(members, readers, npu) for members in regions), default=0)


def regions_of(nodes: Sequence[Node], plan: Plan) -> dict[int, list[tuple[Node, OpPlan]]]:
    """Number of a region -> its operators."""
    found: dict[int, list[tuple[Node, OpPlan]]] = collections.defaultdict(list)
    for node, placed in zip(nodes, plan.ops, strict=True):
        if placed.region is not None:
            found[placed.region].append((node, placed))
    return found


def region_bytes(members: Members, readers: Mapping[str, set[str]], npu: NpuSpec) -> int:
    """What a region takes of the NPU's addresses.

    `readers`: operator -> those that read its result, over the whole program.
    """
    nodes = [node for node, _ in members]
    names = {node.name for node in nodes}
    leaving = {node.name for node in nodes if node.is_output or readers[node.name] - names}
    border = sum(op_work(node.call).output_bytes for node in nodes if node.name in leaving)
    made = {node.var for node in nodes}
    entering = {
        arg: _nbytes(arg.ty)
        for node in nodes
        for arg in tensor_args(node.call)
        if isinstance(arg, relax.Var) and arg not in made
    }
    inside = live_bytes(nodes, names - leaving)
    return held_weights(members, npu) + border + sum(entering.values()) + inside


def held_weights(members: Members, npu: NpuSpec) -> int:
    """Bytes of the constants of the NPU's parts, each constant once."""
    held: dict[relax.Expr, int] = {}
    for node, placed in members:
        work = part_work(node, placed, "npu")
        whole = node.work.weight_bytes
        share = work.weight_bytes / whole if work is not None and whole else 1.0
        for arg in tensor_args(node.call):
            if isinstance(arg, GenericConst):
                held[arg] = max(held.get(arg, 0), round(share * held_bytes(arg, npu)))
    return sum(held.values())


def _at_most(members: Members, npu: NpuSpec) -> int:
    """An upper bound of `region_bytes` that costs next to nothing."""
    works = [op_work(node.call) for node, _ in members]
    return held_weights(members, npu) + sum(
        max(w.bytes - w.weight_bytes, w.output_bytes) for w in works
    )


def _readers(nodes: Sequence[Node]) -> dict[str, set[str]]:
    readers: dict[str, set[str]] = collections.defaultdict(set)
    for node in nodes:
        for name in node.inputs:
            readers[name].add(node.name)
    return readers


def _nbytes(ty: relax.Type) -> int:
    return math.prod(static_shape(ty) or (0,)) * dtype_bytes(str(ty.dtype))
