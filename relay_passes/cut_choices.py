"""Where operators may be cut: boundaries worth trying, and where they lead along chains.

Seeds are the operators that are worth two devices: products and convolutions. Each offers the cuts
that balance the devices best, on the NPU's tile. A cut then moves to the neighbours, through every
operator that `sharding` can cut alike, so that whole chains can stay cut at one boundary.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

from tvm import relax

from relay_passes.op_work import Work, dtype_bytes, static_shape, tensor_args
from relay_passes.planner.problem import Cut, Kind
from relay_passes.program import Node
from relay_passes.sharding import Sharding, argument_cut, fits, is_contiguous, shardings

# A part must start where every OpenCL device lets a buffer start (CL_DEVICE_MEM_BASE_ADDR_ALIGN is
# at most 1024 bits on the devices of today).
_ALIGNMENT = 128
_MOST_CUTS = 10  # of one operator, the seeds with most work first
_CLEARLY = 0.93  # of the time with rows cut: gains below that are within a cost model's error
NpuRows = Mapping[int, Collection[int]]
"""A length that the NPU has no graphs for -> the numbers of rows that it has graphs for.

Operators on results of that length are the GPU's, or cut: by rows at one of these numbers, or by
columns.
"""
NO_NPU_ROWS: NpuRows = MappingProxyType({})
_ROWS = 2  # of an NCHW image
# HTP's tile of an image is eight rows of four pixels: a part of other heights would be padded.
_TILE_WIDTH = 4
_LANES = 32  # columns that a GPU work-item computes side by side, at most


@dataclasses.dataclass(frozen=True)
class CutChoice:
    """One cut of one operator's result."""

    sharding: Sharding
    cut: Cut
    rows: bool = False  # the last axis but one of a product's result
    pads: bool = False  # columns, and the NPU fills its rows up to whole tiles

    @property
    def kind(self) -> Kind:
        """What people call it."""
        return "hybrid" if self.pads else self.sharding.kind


def cut_choices(
    nodes: Sequence[Node],
    works: Sequence[Work],
    npu_share: Callable[[int], float | None],
    split_us: Callable[[int, CutChoice], float],
    tile: int,
    npu_rows: NpuRows = NO_NPU_ROWS,
) -> list[list[CutChoice]]:
    """For every operator the cuts to choose from; none for most.

    Args:
        nodes: the program.
        works: of each operator.
        npu_share: index of an operator -> how much of it the NPU should do for both to end at the
            same time; None where the operator is not to be cut (one device declines it).
        split_us: index of an operator and a cut of it -> when the later part ends.
        tile: rows and columns of the NPU's matrix unit.
        npu_rows: see `NpuRows`.
    """
    shares = [npu_share(i) for i in range(len(nodes))]
    seeds = [i for i, work in enumerate(works) if work.macs and shares[i] is not None]
    total = sum(works[i].macs for i in seeds)
    if not total:
        return [[] for _ in nodes]
    # Rows are cut alike from layer to layer: at what balances the whole program, and beside it.
    overall = sum(works[i].macs * (shares[i] or 0.0) for i in seeds) / total
    network = _Network(nodes)
    found: list[dict[Cut, CutChoice]] = [{} for _ in nodes]
    for seed in sorted(seeds, key=lambda i: -works[i].macs):
        own = shares[seed]
        assert own is not None
        choices = _seed_choices(nodes[seed].call, works[seed], own, overall, tile, npu_rows)
        for choice in _worth_trying(choices, functools.partial(split_us, seed)):
            _spread(network, seed, choice, shares, found)
    return [list(choices.values()) for choices in found]


def _seed_choices(
    call: relax.Call, work: Work, own: float, overall: float, tile: int, npu_rows: NpuRows
) -> list[CutChoice]:
    """Cuts of one product: columns at its own balance, rows at the program's, with neighbours."""
    shape = static_shape(call.ty)
    assert shape is not None
    choices = []
    for sharding in shardings(call):
        extent = shape[sharding.axis]
        if extent in npu_rows:
            if work.kind != "conv" and sharding.axis == len(shape) - 2:
                within = [at for at in npu_rows[extent] if 0 < at < extent]
                within.sort(key=lambda at: abs(at - overall * extent))
                cuts = (Cut(sharding.axis, at, extent) for at in within)
                possible = (c for c in cuts if fits(call, sharding, c) and _is_aligned(call, c))
                kept = itertools.islice(possible, 3)
                choices += [CutChoice(sharding, cut, rows=True) for cut in sorted(kept)]
            continue
        if sharding.kind != "weight" and any(dim in npu_rows for dim in shape):
            continue
        image_rows = work.kind == "conv" and sharding.axis == _ROWS
        if image_rows and shape[0] > 1:
            continue  # cut by images instead: rows of several are no block as kernels compute them
        inner = sharding.axis >= len(shape) - 2 or sharding.kind == "weight"
        step = max(tile, _LANES if sharding.kind == "weight" else 8) if inner else 1
        if image_rows:
            step = max(1, tile // _TILE_WIDTH)
        share = own if sharding.kind == "weight" or image_rows else overall
        cuts = (Cut(sharding.axis, at, extent) for at in _boundaries(extent, step, share))
        possible = (c for c in cuts if fits(call, sharding, c) and _is_aligned(call, c))
        few = sharding.kind == "weight" or image_rows
        nearest = itertools.islice(possible, 2 if few else 3)
        rows = work.kind != "conv" and sharding.axis == len(shape) - 2
        pads = (
            sharding.kind == "weight"
            and work.kind == "matmul"
            and (work.rows % tile > 0 or work.rows in npu_rows)
            and work.rows > 1
        )
        choices += [CutChoice(sharding, cut, rows, pads) for cut in sorted(nearest)]
    return choices


def _worth_trying(
    choices: list[CutChoice], split_us: Callable[[CutChoice], float]
) -> list[CutChoice]:
    """Without other cuts where rows do: rows carry through norms, heads and layers, others do not.

    Columns stay where they are clearly faster, as they are for few rows, which read the weight
    twice when they are cut. Fewer choices are what makes the search wide where it matters.
    """
    rows = [c for c in choices if c.rows]
    if not rows:
        return choices
    limit = _CLEARLY * min(map(split_us, rows))
    return rows + [c for c in choices if not c.rows and split_us(c) < limit]


def _boundaries(extent: int, step: int, share: float) -> list[int]:
    """The multiples of `step` inside the extent, the nearest to the share first."""
    return sorted(range(step, extent, step), key=lambda at: abs(at - share * extent))


def _is_aligned(call: relax.Call, cut: Cut) -> bool:
    """Whether the GPU's part starts at an aligned address once the cut axis is outermost."""
    shape = static_shape(call.ty)
    assert shape is not None
    if is_contiguous(shape, cut.axis):
        inner = math.prod(shape[cut.axis + 1 :])
    else:
        inner = math.prod(shape) // shape[cut.axis]
    return cut.at * inner * dtype_bytes(str(call.ty.dtype)) % _ALIGNMENT == 0


class _Network:
    """Who reads whose result as which argument."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        index: Mapping[relax.Var, int] = {node.var: i for i, node in enumerate(nodes)}
        self.shardings = [shardings(node.call) for node in nodes]
        self.makers: list[list[int | None]] = []
        self.readers: list[list[tuple[int, int]]] = [[] for _ in nodes]
        for i, node in enumerate(nodes):
            makers = []
            for position, arg in enumerate(tensor_args(node.call)):
                maker = index.get(arg) if isinstance(arg, relax.Var) else None
                makers.append(maker)
                if maker is not None:
                    self.readers[maker].append((i, position))
            self.makers.append(makers)


def _spread(
    network: _Network,
    seed: int,
    first: CutChoice,
    shares: Sequence[float | None],
    found: list[dict[Cut, CutChoice]],
) -> None:
    """Give the cut to the seed, and to all that it reaches along chains."""
    queue = collections.deque([(seed, first)])
    while queue:
        index, choice = queue.popleft()
        mine = found[index]
        if choice.cut in mine or len(mine) >= _MOST_CUTS or shares[index] is None:
            continue
        mine[choice.cut] = choice
        call = network.nodes[index].call
        for position, maker in enumerate(network.makers[index]):
            if maker is None:
                continue
            cut = argument_cut(call, choice.sharding, choice.cut, position)
            if cut is not None:
                queue.extend((maker, c) for c in _along(network, maker, cut))
        for reader, position in network.readers[index]:
            queue.extend((reader, c) for c in _after(network, reader, position, choice.cut))


def _along(network: _Network, index: int, cut: Cut) -> list[CutChoice]:
    """The operator cut at exactly `cut`."""
    call = network.nodes[index].call
    return [
        CutChoice(sharding, cut)
        for sharding in network.shardings[index]
        if sharding.axis == cut.axis and fits(call, sharding, cut)
    ][:1]


def _after(network: _Network, index: int, position: int, cut: Cut) -> list[CutChoice]:
    """A reader's cuts for which its argument is cut at `cut`."""
    call = network.nodes[index].call
    shape = static_shape(call.ty)
    choices = []
    for sharding in network.shardings[index]:
        if sharding.reads[position] != cut.axis or shape is None:
            continue
        extent = shape[sharding.axis]
        if (cut.at * extent) % cut.extent:
            continue
        at = cut.at * extent // cut.extent
        if 0 < at < extent:
            own = Cut(sharding.axis, at, extent)
            if fits(call, sharding, own):
                choices.append(CutChoice(sharding, own))
    return choices
