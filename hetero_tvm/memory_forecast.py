"""How much memory building and loading a model will take, before either is tried.

Weights and activations are counted exactly: activations as the most bytes that live at once when
operators run in the order of the program. What processes take beside them was measured:

    build   BUILD_BASE + BUILD_PER_WEIGHT x weights     (peak of `build --json`, target host)
    load    LOAD_BASE + LOAD_PER_WEIGHT x weights + activations
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tvm import relax
from tvm.ir import GenericConst

from relay_passes.op_work import VIEWS, op_name, op_work, tensor_args
from relay_passes.program import Node

# Peak resident memory, x86-64, Python 3.11, Intel's OpenCL, target host: `build --json` took
# 1674 and 3029 MB for perceptrons with 134 and 268 MB of weights; `bench --json` of these artefacts
# 924 and 1299 MB, of MiniLM (69 MB) 678 MB. What compilers take for code is within the base.
BUILD_BASE_BYTES = 400_000_000
BUILD_PER_WEIGHT_BYTE = 10.0
LOAD_BASE_BYTES = 520_000_000
LOAD_PER_WEIGHT_BYTE = 2.8
# What one process may map on the Hexagon, as Qualcomm's HTP compiler 2.51 logs it
# (memory_alloc_limit 3584 MB).
NPU_WINDOW_BYTES = 3584 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
    """Bytes; `build` and `load` are estimates, the rest is counted."""

    weights: int
    largest_weight: int
    activations: int  # the most that live at once
    build: int  # peak of the process that builds
    load: int  # of the process that runs it
    npu_window: int  # what the NPU can address
    npu_weights: int  # of the operators that it takes
    npu_parts: int  # contexts that these would need


def forecast(nodes: Sequence[Node], on_npu: Mapping[str, bool]) -> Forecast:
    """For a program whose operators the NPU takes where `on_npu` says so."""
    weights = weight_bytes(nodes)
    sizes = list(weights.values())
    npu = sum(weight_bytes([node for node in nodes if on_npu.get(node.name)]).values())
    live = live_bytes(nodes)
    total = sum(sizes)
    return Forecast(
        weights=total,
        largest_weight=max(sizes, default=0),
        activations=live,
        build=round(BUILD_BASE_BYTES + BUILD_PER_WEIGHT_BYTE * total),
        load=round(LOAD_BASE_BYTES + LOAD_PER_WEIGHT_BYTE * total + live),
        npu_window=NPU_WINDOW_BYTES,
        npu_weights=npu,
        npu_parts=-(-npu // NPU_WINDOW_BYTES),
    )


def weight_bytes(nodes: Sequence[Node]) -> dict[relax.Expr, int]:
    """Constants of a program and their sizes; one that several operators read counts once."""
    found: dict[relax.Expr, int] = {}
    for node in nodes:
        for arg in tensor_args(node.call):
            if isinstance(arg, GenericConst):
                found[arg] = int(arg.value.numpy().nbytes)
    return found


def live_bytes(nodes: Sequence[Node]) -> int:
    """The most bytes of results that are still to be read at any point of the program.

    A view keeps alive what it shows, and takes nothing itself.
    """
    shows: dict[str, str] = {}  # a view -> the operator whose result it shows
    for node in nodes:
        if op_name(node.call) in VIEWS and node.inputs:
            shows[node.name] = shows.get(node.inputs[0], node.inputs[0])
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
        if node.name not in shows:
            nbytes = op_work(node.call).output_bytes
            live += nbytes
            ends.setdefault(last_use[node.name], []).append(nbytes)
        most = max(most, live)
        live -= sum(ends.pop(position, []))
    return most
