"""What a build knows and running does not need: what the report of an artefact shows.

    graph, figures, modes, estimated regions, memory, kernels  ▸  packed JSON in the manifest

It travels in the artefact, so that a report needs neither the model nor a second build.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax

from hetero_tvm.lanes import is_lanes
from hetero_tvm.plan_regions import Region
from hetero_tvm.plan_totals import MODELLED, mode_dict, rests_on, waiting_figures
from relay_passes.memory_table import MemoryTable
from relay_passes.op_work import static_shape
from relay_passes.plan import Plan
from relay_passes.program import Node
from schedules.cost_model import CostModel

_MAX_BYTES = 256 << 20  # of the text, unpacked: far above what any build writes
# TVM writes one section for each kernel: this line, prototypes of them all, then the kernel.
_SECTION = re.compile(r"^// Function: (\w+)$", re.MULTILINE)


def function_record(
    nodes: Sequence[Node],
    plan: Plan,
    costs: CostModel,
    modes: Mapping[str, Plan],
    regions: Sequence[Region] | None,
    node_of: Mapping[str, str],
    timeline: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """One function as it was placed: its graph, and what every prediction rests on.

    Args:
        nodes: its operators, before any is cut.
        plan: that is followed.
        costs: by which it was made.
        modes: the plans of simpler modes beside it.
        regions: its NPU regions as the vendor estimates them; None: nothing was estimated.
        node_of: operator -> the ONNX node that it comes from.
        timeline: the plan's run on the simulator, as `lanes.simulated_lanes` gives it; None of a
            plan without costs.
    """
    rests = rests_on(nodes, plan, costs)
    counted = regions is not None and any(region.counts for region in regions)
    provenance = f"{MODELLED}, NPU regions vendor-estimated" if counted else MODELLED
    return {
        "operators": {
            node.name: {
                "node": node_of.get(node.name, node.name),
                "inputs": list(node.inputs),
                "from_model_input": node.reads_graph_inputs,
                "is_output": node.is_output,
                "tensors": _tensors(node),
                "bytes": node.work.bytes,
                "weight_bytes": node.work.weight_bytes,
                "rests": {
                    device: {
                        "provenance": rests.provenance_of[node.name, device],
                        "figure": rests.figure_of[node.name, device],
                    }
                    for device in op.cost_us
                    if (node.name, device) in rests.figure_of
                },
            }
            for node, op in zip(nodes, plan.ops, strict=True)
        },
        "figures": [dataclasses.asdict(figure) for figure in rests.figures],
        "waiting": {
            key: {"value": value, **dataclasses.asdict(origin)}
            for key, (value, origin) in waiting_figures(costs.spec).items()
        },
        "modes": {name: mode_dict(one, provenance) for name, one in modes.items()},
        "totals": mode_dict(plan, provenance),
        "npu_regions": None if regions is None else [region.to_dict() for region in regions],
        "timeline": timeline,
    }


def _tensors(node: Node) -> list[dict[str, Any]]:
    """Shape and type of what an operator gives."""
    ty = node.call.ty
    fields = list(ty.fields) if isinstance(ty, relax.TupleType) else [ty]
    return [
        {"shape": list(static_shape(field) or ()), "dtype": str(getattr(field, "dtype", ""))}
        for field in fields
    ]


def kernel_sources(source: str) -> dict[str, str]:
    """Kernel -> its OpenCL C, out of TVM's source of all of them together."""
    marks = list(_SECTION.finditer(source))
    found = {}
    ends = [*(mark.start() for mark in marks[1:]), len(source)]
    for mark, end in zip(marks, ends, strict=False):  # without any kernel there is one end
        text = source[mark.end() : end]
        kept = [line for line in text.splitlines() if not _is_prototype(line)]
        found[mark[1]] = "\n".join(kept).strip() + "\n"
    return found


def _is_prototype(line: str) -> bool:
    return line.startswith("__kernel void") and line.rstrip().endswith(";")


def pack(
    functions: Mapping[str, Mapping[str, Any]],
    memory: Mapping[str, MemoryTable],
    kernels: Mapping[str, str],
) -> str:
    """The record as text for the manifest."""
    record = {
        "functions": functions,
        "memory": {name: dataclasses.asdict(table) for name, table in memory.items()},
        "kernels": kernels,
    }
    return base64.b64encode(zlib.compress(json.dumps(record).encode(), 9)).decode()


def unpack(text: str) -> dict[str, Any]:
    """What `pack` was given, as plain data.

    Raises:
        ValueError: anything else than what it wrote.
    """
    try:
        reader = zlib.decompressobj()
        raw = reader.decompress(base64.b64decode(text, validate=True), _MAX_BYTES)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"the record of the build cannot be unpacked: {error}") from None
    if not reader.eof:
        raise ValueError("the record of the build is cut short or too long")
    try:
        record = json.loads(raw)
    except RecursionError:
        raise ValueError("the record of the build is nested too deep") from None
    if not isinstance(record, dict) or not {"functions", "memory", "kernels"} <= record.keys():
        raise ValueError("the record of the build lacks a part")
    if not _is_whole(record):
        raise ValueError("the record of the build is not what this version writes")
    return record


def _is_whole(record: Mapping[str, Any]) -> bool:
    """Whether every part is of its kind, as far as a report takes it apart."""
    kernels, functions, memory = record["kernels"], record["functions"], record["memory"]
    if not all(isinstance(part, dict) for part in (kernels, functions, memory)):
        return False
    tables = [*functions.values(), *memory.values()]
    if not all(isinstance(table, dict) for table in tables):
        return False
    parts = {"operators": dict, "figures": list, "waiting": dict, "modes": dict, "totals": dict}
    whole = all(
        isinstance(one.get(key), kind) for one in functions.values() for key, kind in parts.items()
    )
    facts = [fact for one in functions.values() for fact in dict(one.get("operators", {})).values()]
    tensors = [tensor for one in memory.values() for tensor in one.get("tensors", ())]
    timelines = [one["timeline"] for one in functions.values() if one.get("timeline") is not None]
    return (
        whole
        and all(map(is_lanes, timelines))
        and all(isinstance(source, str) for source in kernels.values())
        and all(isinstance(fact, dict) and _are_names(fact.get("inputs")) for fact in facts)
        and all(isinstance(one.get("calls"), int) for one in memory.values())
        and all(
            isinstance(tensor, dict)
            and all(isinstance(tensor.get(key), int) for key in ("nbytes", "first", "last"))
            for tensor in tensors
        )
    )


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
