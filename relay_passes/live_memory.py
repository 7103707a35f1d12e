"""Bytes of a program: its constants, and the most that lives at once.

Both are counted on the program before it is lowered, where every operator has a result of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tvm import relax
from tvm.ir import GenericConst

from relay_passes.constants import values_of
from relay_passes.op_work import VIEWS, op_name, op_work, tensor_args
from relay_passes.program import Node


def weight_bytes(nodes: Sequence[Node]) -> dict[relax.Expr, int]:
    """Constants of a program and their sizes; one that several operators read counts once."""
    found: dict[relax.Expr, int] = {}
    for node in nodes:
        for arg in tensor_args(node.call):
            if isinstance(arg, GenericConst):
                found[arg] = int(values_of(arg).nbytes)
    return found


def shown_by(nodes: Sequence[Node]) -> dict[str, str]:
    """A view -> the operator whose result it shows."""
    shows: dict[str, str] = {}
    for node in nodes:
        if op_name(node.call) in VIEWS and node.inputs:
            shows[node.name] = shows.get(node.inputs[0], node.inputs[0])
    return shows


def live_bytes(nodes: Sequence[Node], counted: Collection[str] | None = None) -> int:
    """The most bytes of results that are still to be read at any point of the program.

    A view keeps alive what it shows, and takes nothing itself. `nodes` may be a stretch of a
    program: what it reads from before it is not counted. `counted`: only these operators' results;
    None counts all.
    """
    shows = shown_by(nodes)
    last_use: dict[str, int] = {}
    for position, node in enumerate(nodes):
        for name in node.inputs:
            shown = shows.get(name, name)
            last_use[shown] = max(last_use.get(shown, 0), position)
        shown = shows.get(node.name, node.name)
        end = len(nodes) if node.is_output else position
        last_use[shown] = max(last_use.get(shown, 0), end)
    ends: dict[int, list[int]] = {}
    live = most = 0
    for position, node in enumerate(nodes):
        if node.name not in shows and (counted is None or node.name in counted):
            nbytes = op_work(node.call).output_bytes
            live += nbytes
            ends.setdefault(last_use[node.name], []).append(nbytes)
        most = max(most, live)
        live -= sum(ends.pop(position, []))
    return most
