"""The ways to run one product of an activation with a constant weight on GPU and NPU.

The four strategies of HeteroLLM (arXiv 2501.14794), for `rows` tokens and `columns` channels out.
The NPU's graphs are static: it takes the lengths that were compiled, and is padded up to one.

    none         one device does all; the NPU padded up to a length
    weight       the NPU has the first output channels, the GPU the others; both read all tokens
    hybrid       the same where the number of tokens is none of the lengths: the NPU is padded
    activation   the NPU has the first tokens, as many as a length; the GPU the remainder
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from relay_passes.planner.problem import Choice, Cut


class ProductUs(Protocol):
    """What a product of this weight takes, in µs, for so many tokens and output channels."""

    def __call__(self, device: str, rows: int, columns: int, *, both: bool = False) -> float:
        """`both`: the other device works at the same time."""
        ...


def npu_runs(rows: int, lengths: Sequence[int]) -> tuple[int, ...]:
    """The lengths that the NPU runs one after another for so many rows, padded at the end.

    Any length where `lengths` is empty; else the longest as often as it is full, then the shortest
    that takes what is left.
    """
    if not lengths:
        return (rows,)
    full, rest = divmod(rows, max(lengths))
    runs = (max(lengths),) * full
    return (*runs, min(n for n in lengths if n >= rest)) if rest else runs


def product_choices(
    rows: int,
    columns: int,
    us: ProductUs,
    *,
    tile: int = 32,
    lengths: Sequence[int] = (),
    inputs: int = 1,
    least_gain: float = 0.0,
) -> tuple[Choice, ...]:
    """All ways to run the product; the result is [rows, columns].

    A cut by columns is made at every multiple of `tile`, which may be many: a planner of whole
    models should keep those near the balance of the devices.

    Args:
        rows: tokens.
        columns: output channels.
        us: costs. A padded run is asked for with its padded rows.
        tile: output channels that a device computes together; cuts are at multiples of it.
        lengths: rows of the NPU's compiled graphs; none means that it takes any number.
        inputs: 1, or 0 where the activation is no operator's result.
        least_gain: share of the better whole that a split must save to be offered. Costs are never
            known exactly; a lopsided split that promises less than their error is not worth it.

    Returns: GPU alone, NPU alone, then the splits by columns, then those by rows. The result of a
        split by columns is meant to be stored transposed, so none has to be gathered.

    Raises:
        ValueError: something that is not positive.
    """
    if min(rows, columns, tile, *lengths) < 1:
        raise ValueError(f"not positive: {rows=} {columns=} {tile=} {lengths=}")
    whole = (None,) * inputs

    def npu_us(rows: int, columns: int, both: bool) -> float:
        return sum(us("npu", run, columns, both=both) for run in npu_runs(rows, lengths))

    alone = [
        Choice({"gpu": us("gpu", rows, columns)}, whole),
        Choice({"npu": npu_us(rows, columns, False)}, whole),
    ]
    splits = []
    padded = sum(npu_runs(rows, lengths)) != rows
    for at in range(tile, columns, tile):
        parts = {"gpu": us("gpu", rows, columns - at, both=True), "npu": npu_us(rows, at, True)}
        cut = Cut(1, at, columns)
        splits.append(Choice(parts, whole, cut, "hybrid" if padded else "weight"))
    for at in sorted(_full_lengths(rows, lengths)):
        parts = {"gpu": us("gpu", rows - at, columns, both=True), "npu": npu_us(at, columns, True)}
        cut = Cut(0, at, rows)
        splits.append(Choice(parts, (cut,) * inputs, cut, "activation"))
    most = (1 - least_gain) * min(next(iter(choice.us.values())) for choice in alone)
    if least_gain:
        splits = [choice for choice in splits if max(choice.us.values()) <= most]
    return (*alone, *splits)


def _full_lengths(rows: int, lengths: Sequence[int]) -> set[int]:
    """Fewer rows than `rows` that the NPU takes without padding."""
    longest = max(lengths, default=rows)
    return {n for n in lengths if n < rows} | set(range(longest, rows, longest))
