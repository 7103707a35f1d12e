"""The cheapest device for every operator, by minimum s-t cuts.

Two devices, a cost for each operator on each, a cost for every tensor that changes device: cut
the graph between "gpu" and "npu" so that the capacity cut is least (H. S. Stone, "Multiprocessor
scheduling with the aid of network flow algorithms", IEEE TSE 3(1), 1977). With time added up
operator after operator this is the optimum over all 2^n assignments. A tensor is paid once per
device that reads it, however many operators read it there: an auxiliary vertex gathers its readers.

The cut pays several tensors over one border each, although one wait serves them all. So `cheapest`
cuts several times, with the price of a hand-over scaled down, and takes the assignment that costs
least when waits are counted as the runtime makes them (`moves`). The assignments that use one
device are among the candidates: no plan is predicted slower than the better single device.

What only the CPU takes is not placed; it stands for a third device whose edges cost a hand-over on
either side. The model's inputs are one tensor that the CPU made, its outputs one that it reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import networkx as nx

Handover = Callable[[str, str, int], float]  # from, to, bytes -> µs
_GPU, _NPU = "gpu", "npu"
_SHARES = (
    1.0,
    0.5,
    0.25,
    0.1,
    0.0,
)  # of a hand-over's price, for the cuts that `cheapest` compares


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


@dataclasses.dataclass(frozen=True)
class Move:
    """One wait at which tensors change device."""

    source: str
    target: str
    sizes: tuple[int, ...]  # bytes of each tensor; none for the model's outputs
    us: float


def moves(ops: Sequence[Op], device: Sequence[str], handover: Handover) -> list[Move]:
    """What an assignment hands over, wait by wait, as the runtime does it.

    Between GPU and NPU one wait serves every tensor that the same stage needs (an operator's stage
    is how often the work before it left the NPU; the NPU's operators of one stage run as one
    region). A hand-over with the CPU is paid per tensor.
    """
    stage: list[int] = []
    for index, op in enumerate(ops):
        on_npu = device[index] == _NPU
        left = [stage[i] + (not on_npu and device[i] == _NPU) for i in op.inputs]
        stage.append(max(left, default=0))
    found: dict[tuple[str, str, int], list[int]] = {}
    for number, tensor in enumerate(tensors(ops)):
        source = "cpu" if tensor.maker is None else device[tensor.maker]
        crossings = {(device[r], stage[r]) for r in tensor.readers if device[r] != source}
        paid: set[str] = set()
        for target, when in sorted(crossings, key=lambda crossing: crossing[1]):
            size = 0 if target in paid else tensor.nbytes  # once there, it stays there
            if "cpu" in (source, target):
                if target not in paid:
                    found[source, target, -1 - number] = [size]
            elif target == _NPU or target not in paid:
                found.setdefault((source, target, when), []).append(size)
            paid.add(target)
    result = []
    for (source, target, _), sizes in found.items():
        start = handover(source, target, 0)
        us = start + sum(handover(source, target, size) - start for size in sizes)
        result.append(Move(source, target, tuple(sizes), us))
    for source in sorted({device[i] for i, op in enumerate(ops) if op.is_output} - {"cpu"}):
        result.append(Move(source, "cpu", (), handover(source, "cpu", 0)))
    return result


def elapsed_us(ops: Sequence[Op], device: Sequence[str], handover: Handover) -> tuple[float, float]:
    """Predicted time in operators, and in hand-overs counted as `moves` does."""
    work = sum(op.cost_us[place] for op, place in zip(ops, device, strict=True))
    return work, sum(move.us for move in moves(ops, device, handover))


def cheapest(
    ops: Sequence[Op], handover: Handover, others: Sequence[Sequence[str]] = ()
) -> list[str]:
    """The best by `elapsed_us` of several cuts and of the assignments in `others`."""
    candidates = []
    for share in _SHARES:

        def scaled(source: str, target: str, nbytes: int, share: float = share) -> float:
            return share * handover(source, target, nbytes)

        candidates.append(solve(ops, scaled))
    candidates += [list(device) for device in others]
    # Rounded, so that of equals the first, the cut at the full price, is taken.
    return min(candidates, key=lambda device: round(sum(elapsed_us(ops, device, handover)), 6))


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
