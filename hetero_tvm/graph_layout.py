"""Where the operators of a graph are drawn: in layers from top to bottom.

    layers by the longest way from the inputs
    ▸ places within a layer by the middle of the neighbours
    ▸ positions that pull edges straight

The method is the usual one (Sugiyama, Tagawa, Toda, 1981). It runs when the report is written, not
when it is opened, so that a page shows a thousand operators at once. Long edges pass through places
of their own, one in each layer between. Positions are least squares: each box wants to stand
under or over its neighbours, none may touch the next, and that is a monotone regression.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

_LAYER_HEIGHT = 74.0  # from one layer's middle to the next one's
_GAP = 18.0  # between two boxes
_PASS_WIDTH = 6.0  # of an edge on its way through a layer
_SWEEPS = 12
_PULLS = 16
_STRAIGHT = 8.0  # how much more a long edge wants to be straight than a short one

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Middles of the boxes, and the ways of the edges, from (0, 0)."""

    at: Mapping[str, Point]
    ways: Mapping[tuple[str, str], tuple[Point, ...]]
    width: float
    height: float


def layout(widths: Mapping[str, float], edges: Sequence[tuple[str, str]], box: float) -> Layout:
    """Place boxes of these widths.

    Args:
        widths: of every box, each after those that lead to it.
        edges: from one box to a later one, each once.
        box: height of a box.
    """
    if not widths:
        return Layout({}, {}, 0.0, 0.0)
    rank = _ranks(list(widths), edges)
    layers, near, ways = _with_passes(widths, rank, edges)
    _reorder(layers, near)
    wide = [[_width(place, widths) for place in layer] for layer in layers]
    x = _positions(layers, near, wide)
    left = min(
        x[p] - w / 2
        for layer, ws in zip(layers, wide, strict=True)
        for p, w in zip(layer, ws, strict=True)
    )
    right = max(
        x[p] + w / 2
        for layer, ws in zip(layers, wide, strict=True)
        for p, w in zip(layer, ws, strict=True)
    )

    def middle(place: _Place) -> Point:
        return (
            round(x[place] - left, 1),
            round(_rank_of(place, rank) * _LAYER_HEIGHT + box / 2, 1),
        )

    at = {name: middle(name) for name in widths}
    found = {}
    for (start, end), passes in ways.items():
        (x0, y0), (x1, y1) = at[start], at[end]
        found[start, end] = ((x0, y0 + box / 2), *map(middle, passes), (x1, y1 - box / 2))
    height = max(rank.values()) * _LAYER_HEIGHT + box
    return Layout(at, found, round(right - left, 1), round(height, 1))


# A box, or a place that the edge passes in a layer.
_Place = str | tuple[str, str, int]


def _rank_of(place: _Place, rank: Mapping[str, int]) -> int:
    return rank[place] if isinstance(place, str) else place[2]


def _width(place: _Place, widths: Mapping[str, float]) -> float:
    return widths[place] if isinstance(place, str) else _PASS_WIDTH


def _ranks(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The layer of every box: below all that lead to it, as near to those that it leads to."""
    before, after = defaultdict(list), defaultdict(list)
    for start, end in edges:
        before[end].append(start)
        after[start].append(end)
    rank: dict[str, int] = {}
    for name in names:
        rank[name] = max((rank[one] + 1 for one in before[name]), default=0)
    for name in reversed(names):
        # Moving down shortens an edge for each reader, and lengthens one for each operand.
        if after[name] and len(after[name]) > len(before[name]):
            rank[name] = max(rank[name], min(rank[one] for one in after[name]) - 1)
    return rank


def _with_passes(
    widths: Mapping[str, float], rank: Mapping[str, int], edges: Sequence[tuple[str, str]]
) -> tuple[
    list[list[_Place]],
    dict[_Place, tuple[list[_Place], list[_Place]]],
    dict[tuple[str, str], list[_Place]],
]:
    """Layers with places for long edges; neighbours above and below; the places of each edge."""
    layers: list[list[_Place]] = [[] for _ in range(max(rank.values()) + 1)]
    near: dict[_Place, tuple[list[_Place], list[_Place]]] = defaultdict(lambda: ([], []))
    ways: dict[tuple[str, str], list[_Place]] = {}
    for name in widths:
        layers[rank[name]].append(name)
    for start, end in edges:
        passes: list[_Place] = [(start, end, at) for at in range(rank[start] + 1, rank[end])]
        ways[start, end] = passes
        for place in passes:
            layers[_rank_of(place, rank)].append(place)
        chain: list[_Place] = [start, *passes, end]
        for upper, lower in itertools.pairwise(chain):
            near[upper][1].append(lower)
            near[lower][0].append(upper)
    return layers, near, ways


def _reorder(
    layers: list[list[_Place]], near: Mapping[_Place, tuple[list[_Place], list[_Place]]]
) -> None:
    """Order each layer so that few edges cross: by the middle of its neighbours, up and down."""
    best, fewest = [list(layer) for layer in layers], _crossings(layers, near)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        order = range(1, len(layers)) if down else range(len(layers) - 2, -1, -1)
        for at in order:
            other = layers[at - 1 if down else at + 1]
            position = {place: number for number, place in enumerate(other)}
            wish = {
                place: statistics.fmean(position[one] for one in neighbours)
                if (neighbours := near[place][0 if down else 1])
                else float(number)
                for number, place in enumerate(layers[at])
            }
            layers[at].sort(key=wish.__getitem__)
        found = _crossings(layers, near)
        if found < fewest:
            best, fewest = [list(layer) for layer in layers], found
    layers[:] = best


def _crossings(
    layers: Sequence[Sequence[_Place]], near: Mapping[_Place, tuple[list[_Place], list[_Place]]]
) -> int:
    total = 0
    for upper, lower in itertools.pairwise(layers):
        position = {place: number for number, place in enumerate(lower)}
        ends: list[int] = []
        for place in upper:
            for end in sorted(position[one] for one in near[place][1]):
                total += len(ends) - bisect.bisect_right(ends, end)
            for one in near[place][1]:
                bisect.insort(ends, position[one])
    return total


def _positions(
    layers: Sequence[Sequence[_Place]],
    near: Mapping[_Place, tuple[list[_Place], list[_Place]]],
    widths: Sequence[Sequence[float]],
) -> dict[_Place, float]:
    """The middle of every place: in its order, near its neighbours."""
    x: dict[_Place, float] = {}
    offsets = []  # of each place from the first of its layer, packed
    for layer, wide in zip(layers, widths, strict=True):
        packed = [0.0]
        for left, right in itertools.pairwise(wide):
            packed.append(packed[-1] + (left + right) / 2 + _GAP)
        offsets.append(packed)
        x |= {place: value - packed[-1] / 2 for place, value in zip(layer, packed, strict=True)}
    for pull in range(_PULLS):
        # To those above on the way down, to those below on the way up: a chain becomes straight in
        # one pass. Both sides pull in between; the last pass leaves readers under what they read.
        both, down = pull % 4 == 3 and pull < _PULLS - 1, pull % 2 == 0 or pull == _PULLS - 1
        order = range(len(layers)) if down else range(len(layers) - 1, -1, -1)
        for at in order:
            wishes, weights = [], []
            for place in layers[at]:
                total = weight = 0.0
                above, below = near[place]
                if both:
                    pulling = [*above, *below]
                else:
                    pulling = above if down else below
                for one in pulling:
                    passing = isinstance(place, tuple) and isinstance(one, tuple)
                    strength = _STRAIGHT if passing else 1.0
                    total, weight = total + strength * x[one], weight + strength
                wishes.append(total / weight if weight else x[place])
                weights.append(weight or 0.1)
            x.update(zip(layers[at], _apart(wishes, weights, offsets[at]), strict=True))
    return x


def _apart(
    wishes: Sequence[float], weights: Sequence[float], offsets: Sequence[float]
) -> list[float]:
    """The positions nearest to `wishes` that keep the distances of `offsets` at least.

    What is left when the offsets are taken off must not fall: blocks that would are pooled at their
    mean (the pool-adjacent-violators algorithm).
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many
    for wish, weight, offset in zip(wishes, weights, offsets, strict=True):
        mean, count = wish - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, heavy, more = blocks.pop()
            mean = (mean * weight + other * heavy) / (weight + heavy)
            weight, count = weight + heavy, count + more
        blocks.append((mean, weight, count))
    found = [mean for mean, _, count in blocks for _ in range(count)]
    return [value + offset for value, offset in zip(found, offsets, strict=True)]
