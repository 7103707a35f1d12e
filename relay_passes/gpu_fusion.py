"""Which operators share a GPU kernel with what made their operands, if the GPU runs all of them.

What TVM's FuseOps does, on the program before it is lowered, so that costs can be asked for:

    contraction    or pool: takes element-wise followers of its own size into its kernel, a product
                   the transpose behind it, too (`store_permuted`), and nothing else
    element-wise   joins what follows it, also a reduction
    injective      joins what follows it: copies, joins, transposes
    reduction      starts a kernel; nothing joins it

and only where all that reads the one leads to the other: a result that is needed elsewhere, too, is
written to memory anyhow. An operator that joins nobody before it is a kernel of its own: it reads
its operands, writes its result, and is launched.

Requires: the program as `read_program` has it.
Ensures:  for each operator the operators it reads from whose kernel it is in; none of itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from relay_passes.op_work import Work, op_name, static_shape
from relay_passes.program import Node

# TVM's kinds of kernels, in its order.
_ELEMENTWISE, _BROADCAST, _INJECTIVE, _REDUCTION, _CONTRACTION, _OPAQUE = range(6)

# Of what fuses at all, the maps of indices; the rest has one element out for one in.
_MOVES = frozenset(
    f"relax.{name}"
    for name in """
    broadcast_to flip repeat tile permute_dims strided_slice take concat stack split one_hot
    layout_transform meshgrid nn.pad nn.pixel_shuffle tril triu reshape flatten squeeze expand_dims
    image.resize2d
    """.split()
)

# Reductions that element-wise followers join.
_POOLS = frozenset(
    f"relax.nn.{prefix}{kind}_pool{rank}d"
    for prefix, kind in (("", "max"), ("", "avg"), ("adaptive_", "avg"))
    for rank in (1, 2, 3)
)


def kernel_mates(nodes: Sequence[Node]) -> list[tuple[int, ...]]:
    """For each operator those of its inputs, by number, that are in its kernel."""
    index = {node.name: i for i, node in enumerate(nodes)}
    inputs = [tuple(index[name] for name in node.inputs) for node in nodes]
    groups = _Groups(nodes, inputs)
    for phase in (0, 1):
        for number in range(len(nodes)):
            groups.join_follower(number, phase)
    return [
        tuple(maker for maker in makers if groups.root(maker) == groups.root(number))
        for number, makers in enumerate(inputs)
    ]


def gpu_works(nodes: Sequence[Node], mates: Sequence[tuple[int, ...]]) -> list[Work]:
    """The work of each operator, with `fuses` only where there is a kernel that it can join."""
    return [
        dataclasses.replace(node.work, fuses=bool(node.work.fuses and kernel))
        for node, kernel in zip(nodes, mates, strict=True)
    ]


def _kind(call_name: str, work: Work) -> int:
    if work.macs or call_name in _POOLS:
        return _CONTRACTION
    if call_name in _MOVES:
        return _INJECTIVE
    if work.fuses or work.kind == "view":
        return _BROADCAST
    return _REDUCTION


class _Groups:
    """Operators in kernels, joined step by step."""

    def __init__(self, nodes: Sequence[Node], inputs: Sequence[tuple[int, ...]]) -> None:
        self.readers: list[list[int]] = [[] for _ in nodes]
        for number, makers in enumerate(inputs):
            for maker in makers:
                self.readers[maker].append(number)
        self.shapes = [static_shape(node.call.ty) for node in nodes]
        self.own = [_kind(op_name(node.call), node.work) for node in nodes]
        self.kind = list(self.own)  # of a root: its group's
        names = [op_name(node.call) for node in nodes]
        self.permutes = [name == "relax.permute_dims" for name in names]
        self.products = [name == "relax.matmul" for name in names]
        self.parent = list(range(len(nodes)))
        self.meets = _meeting_points(nodes, self.readers)

    def root(self, number: int) -> int:
        while self.parent[number] != number:
            number = self.parent[number]
        return number

    def join_follower(self, number: int, phase: int) -> None:
        """Join the kernel of what all readers of `number` lead to, where the rules allow it."""
        sink, kind = self.meets[number], self.kind[self.root(number)]
        if sink is None or self.root(sink) == self.root(number):
            return
        end = self.kind[self.root(sink)]
        if kind == _CONTRACTION:
            same = self.shapes[number] is not None and self.shapes[number] == self.shapes[sink]
            if self.permutes[sink] and self.readers[number] == [sink]:  # see `store_permuted`
                same, end = self.own[number] <= _BROADCAST or self.products[number], _BROADCAST
            allowed, last = (_BROADCAST, end <= _BROADCAST) if phase == 0 and same else (-1, False)
        elif kind <= _BROADCAST:
            # What it leads to may be in a contraction's kernel already.
            allowed, last = _INJECTIVE, end != _OPAQUE and self.own[sink] <= _REDUCTION
        elif kind == _INJECTIVE and phase == 1:
            allowed, last = _INJECTIVE, end <= _INJECTIVE
        else:
            return
        if last and self._only_through(number, sink, allowed):
            self._commit(number, sink)

    def _between(self, number: int, sink: int) -> set[int]:
        """All operators on ways from `number` to `sink`, without both."""
        found: set[int] = set()
        pending = list(self.readers[number])
        while pending:
            reader = pending.pop()
            if reader != sink and reader not in found:
                found.add(reader)
                pending.extend(self.readers[reader])
        return found

    def _only_through(self, number: int, sink: int, allowed: int) -> bool:
        return all(self.kind[self.root(n)] <= allowed for n in self._between(number, sink))

    def _commit(self, number: int, sink: int) -> None:
        root = self.root(sink)
        for member in {number, *self._between(number, sink)}:
            mine = self.root(member)
            if mine != root:
                self.kind[root] = max(self.kind[root], self.kind[mine])
                self.parent[mine] = root


def _meeting_points(nodes: Sequence[Node], readers: Sequence[Sequence[int]]) -> list[int | None]:
    """For each operator the first one that every way from it to the outputs passes."""
    meets: list[int | None] = [None] * len(nodes)
    depth = [0] * len(nodes)  # of the tree that `meets` is
    for number in reversed(range(len(nodes))):
        if nodes[number].is_output or not readers[number]:
            continue
        point: int | None = readers[number][0]
        for reader in readers[number][1:]:
            other: int | None = reader
            while point != other and point is not None and other is not None:
                if depth[point] >= depth[other]:
                    point = meets[point]
                else:
                    other = meets[other]
            if point != other:
                point = None
        meets[number] = point
        depth[number] = 1 + depth[point] if point is not None else 0
    return meets
