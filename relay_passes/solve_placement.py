"""The cheapest device for every operator, exactly: a minimum s-t cut.

Two devices, a cost for each operator on each, a cost for every tensor that changes device: cut
the graph between "gpu" and "npu" so that the capacity cut is least (H. S. Stone, "Multiprocessor
scheduling with the aid of network flow algorithms", IEEE TSE 3(1), 1977). With time added up
operator after operator this is the optimum over all 2^n assignments, the two that use one device
among them; so the plan is never predicted slower than the better single device.

A tensor is paid once per device that reads it, however many operators read it there: an auxiliary
vertex gathers its readers. Several tensors over one border are paid each, although one wait could
serve them all: a plan may turn out cheaper than predicted, never dearer for that.

What only the CPU takes is not placed; it stands for a third device whose edges cost a hand-over on
either side. The model's inputs are one tensor that the CPU made, its outputs one that it reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import networkx as nx

Handover = Callable[[str, str, int], float]  # from, to, bytes -> µs
_GPU, _NPU = "gpu", "npu"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Op:
    """One operator as numbers."""

    cost_us: Mapping[str, float]  # of the devices it may go to; {"cpu": ...} is pinned there
    inputs: tuple[int, ...] = ()  # operators before it whose results it reads, each once
    nbytes: int = 0  # of its result
    reads_graph_inputs: bool = False
    is_output: bool = False


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Something that operators hand over: made once, read by some."""

    maker: int | None  # None: the CPU made it
    readers: tuple[int, ...]
    cpu_reads: bool
    nbytes: int


def tensors(ops: Sequence[Op]) -> list[Tensor]:
    """Every tensor of the problem; the model's inputs count as one."""
    readers: list[list[int]] = [[] for _ in ops]
    for index, op in enumerate(ops):
        for maker in op.inputs:
            assert maker < index, "operators come after what they read"
            readers[maker].append(index)
    made = [
        Tensor(index, tuple(readers[index]), False, op.nbytes)
        for index, op in enumerate(ops)
        if readers[index]
    ]
    first = tuple(index for index, op in enumerate(ops) if op.reads_graph_inputs)
    return [*made, Tensor(None, first, False, 0)] if first else made


def total_us(ops: Sequence[Op], device: Sequence[str], handover: Handover) -> tuple[float, float]:
    """Predicted time in operators, and in hand-overs, of one assignment."""
    work = sum(op.cost_us[place] for op, place in zip(ops, device, strict=True))
    moves = 0.0
    for tensor in tensors(ops):
        source = "cpu" if tensor.maker is None else device[tensor.maker]
        for target in sorted({device[reader] for reader in tensor.readers} - {source}):
            moves += handover(source, target, tensor.nbytes)
    for source in sorted({device[i] for i, op in enumerate(ops) if op.is_output} - {"cpu"}):
        moves += handover(source, "cpu", 0)
    return work, moves


def solve(ops: Sequence[Op], handover: Handover) -> list[str]:
    """The assignment with the least `total_us`, to a nanosecond an operator.

    Requires: every operator has a cost on "gpu", on "npu", on both, or on "cpu" alone.
    """
    for op in ops:
        assert set(op.cost_us) <= {_GPU, _NPU} or set(op.cost_us) == {"cpu"}, op
        assert op.cost_us, "an operator that no device takes"
    network = _Network()
    for index, op in enumerate(ops):
        if "cpu" not in op.cost_us:
            network.charge(index, _GPU, op.cost_us.get(_GPU))
            network.charge(index, _NPU, op.cost_us.get(_NPU))
    pinned = {index for index, op in enumerate(ops) if "cpu" in op.cost_us}
    for tensor in tensors(ops):
        _add_tensor(network, tensor, pinned, handover)
    last = [index for index, op in enumerate(ops) if op.is_output and index not in pinned]
    for device in (_GPU, _NPU):
        network.charge_once(last, device, handover(device, "cpu", 0))
    on_gpu = network.gpu_side()
    return ["cpu" if i in pinned else _GPU if i in on_gpu else _NPU for i in range(len(ops))]


def _add_tensor(network: _Network, tensor: Tensor, pinned: set[int], handover: Handover) -> None:
    free = [reader for reader in tensor.readers if reader not in pinned]
    from_cpu = tensor.maker is None or tensor.maker in pinned
    if from_cpu:
        for device in (_GPU, _NPU):
            network.charge_once(free, device, handover("cpu", device, tensor.nbytes))
        return
    assert tensor.maker is not None
    if len(free) < len(tensor.readers):  # the CPU reads it too
        for device in (_GPU, _NPU):
            network.charge_once([tensor.maker], device, handover(device, "cpu", tensor.nbytes))
    network.hand_over(tensor.maker, free, _GPU, handover(_GPU, _NPU, tensor.nbytes))
    network.hand_over(tensor.maker, free, _NPU, handover(_NPU, _GPU, tensor.nbytes))


class _Network:
    """A flow network in nanoseconds: the source's side is the GPU, the sink's the NPU."""

    def __init__(self) -> None:
        self.graph = nx.DiGraph()
        self.graph.add_nodes_from((_GPU, _NPU))
        self.helpers = 0

    def charge(self, op: int, device: str, us: float | None) -> None:
        """`op` on `device` costs `us`; None: it may not go there."""
        if device == _GPU:
            self._edge(op, _NPU, us)
        else:
            self._edge(_GPU, op, us)

    def charge_once(self, ops: Sequence[int], device: str, us: float) -> None:
        """`us` is paid once if any of `ops` is on `device`."""
        if not ops:
            return
        helper = self._helper()
        for op in ops:
            self._edge(op, helper, None) if device == _GPU else self._edge(helper, op, None)
        self._edge(helper, _NPU, us) if device == _GPU else self._edge(_GPU, helper, us)

    def hand_over(self, maker: int, readers: Sequence[int], source: str, us: float) -> None:
        """`us` is paid once if `maker` is on `source` and any of `readers` is not."""
        if not readers:
            return
        helper = self._helper()
        for reader in readers:
            self._edge(helper, reader, None) if source == _GPU else self._edge(reader, helper, None)
        self._edge(maker, helper, us) if source == _GPU else self._edge(helper, maker, us)

    def gpu_side(self) -> set[int]:
        """The operators on the GPU's side of the least cut; ties go to the GPU."""
        _, (gpu_side, _) = nx.minimum_cut(self.graph, _GPU, _NPU)
        return {vertex for vertex in gpu_side if isinstance(vertex, int)}

    def _helper(self) -> str:
        self.helpers += 1
        return f"helper {self.helpers}"

    def _edge(self, tail: int | str, head: int | str, us: float | None) -> None:
        if us is None:  # networkx: no capacity means without limit
            assert not self.graph.has_edge(tail, head), "limited and unlimited at once"
            self.graph.add_edge(tail, head)
        elif not self.graph.has_edge(tail, head):
            self.graph.add_edge(tail, head, capacity=round(us * 1e3))
        elif "capacity" in self.graph.edges[tail, head]:
            self.graph.edges[tail, head]["capacity"] += round(us * 1e3)
