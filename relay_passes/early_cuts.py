"""What the GPU keeps whole and may compute in two parts, so that the NPU begins with the first.

    attention rows 0..63 | rows 64..127      the GPU's, in two launches
    product   rows 0..63                     the NPU's, from the end of the first

Attention is what makes the NPU wait longest of all that is the GPU's; what else would is cut
between both.
"""

from __future__ import annotations

from collections.abc import Sequence

from relay_passes.attention import ATTENTION
from relay_passes.op_work import op_name, static_shape
from relay_passes.plan import Plan
from relay_passes.planner.problem import Choice, Cut
from relay_passes.program import Node
from relay_passes.sharding import Sharding, fits, is_contiguous, shardings


def early_cuts(
    nodes: Sequence[Node], offers: Sequence[Sequence[Choice]], also: Sequence[Plan]
) -> list[list[tuple[Cut, Sharding]]]:
    """For every operator where it may be cut so, and by which rule; none for most.

    Args:
        nodes: the program, or one without most of its layers.
        offers: of each operator the choices in which both devices have a part of it.
        also: plans of the same program; what is early there is on offer too.
    """
    found: list[list[tuple[Cut, Sharding]]] = [[] for _ in nodes]
    readers: dict[str, list[int]] = {node.name: [] for node in nodes}
    for index, node in enumerate(nodes):
        for name in node.inputs:
            readers[name].append(index)
    for index, node in enumerate(nodes):
        # Read by the next alone: in the whole program, and here, where some stand for others.
        is_next = node.feeds_next and readers[node.name] == [index + 1]
        if op_name(node.call) != ATTENTION or not is_next:
            continue
        position = nodes[index + 1].inputs.index(node.name)
        wanted = {offer.reads[position] for offer in offers[index + 1]}
        wanted |= {plan.ops[index].early for plan in also}
        ways: dict[int, Sharding] = {}
        for way in shardings(node.call):
            ways.setdefault(way.axis, way)  # the one that a plan's cut is read by
        found[index] = [
            (cut, ways[cut.axis])
            for cut in sorted(cut for cut in wanted if cut is not None)
            if cut.axis in ways and fits(node.call, ways[cut.axis], cut)
            if is_contiguous(static_shape(node.call.ty) or (), cut.axis)
        ]
    return found
