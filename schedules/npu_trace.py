"""Where the time of a vendor estimate goes: its predicted schedule, laid out to the graph's nodes.

With `profiling_level=optrace` Qualcomm's compiler writes down the schedule that its estimate is of:
every operation with start and duration in cycles, the unit that it runs on, and a number whose low
32 bits say for which node of the graph it is done. Beside it lies a schematic with these numbers'
names. Several units work at once, so an operation's duration is not what it adds to the total:

    cycle by cycle   what computes shares the cycle; where nothing does, the transfers share it

so the shares of all nodes, and of what belongs to none (inputs, outputs, gaps), add up to one.

Requires: the log and the schematic of one graph.
Ensures:  None where one of them is not as described here, never a guess.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_BEGIN = b'{ \n  "traceEvents": ['
_NAMES = re.compile(rb"^qnn_name_translations = (\{.*?^\})", re.MULTILINE | re.DOTALL)
_TRANSFER = "for_dma"
_BETWEEN = ("@Spill", "@Fill")  # transfers of what did not fit on the chip, either way
_NODE_BITS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeTrace:
    """One node's part of a predicted schedule."""

    share: float  # of the graph's time, between 0 and 1
    spilled_bytes: int = 0  # written to memory for want of room, and read again


def read_trace(log: bytes, schematic: bytes) -> dict[str, NodeTrace] | None:
    """QNN's name of every node that takes time -> its part; None where it cannot be told."""
    names = _names(schematic)
    events = _events(log)
    if names is None or not events:
        return None
    try:
        cycles, total = _cycles(events)
        spilled = _spilled(events)
    except (KeyError, TypeError, ValueError):  # another version of the format
        return None
    if total <= 0:
        return None
    found = {
        name: NodeTrace(share=cycles.get(number, 0.0) / total, spilled_bytes=spilled[number])
        for number, name in names.items()
        if number in cycles or spilled[number]
    }
    return found or None


def _events(log: bytes) -> list[Mapping[str, Any]] | None:
    """The operations of the one trace in the log, with a duration."""
    if log.count(_BEGIN) != 1:
        return None
    text = log[log.index(_BEGIN) :].decode("utf-8", errors="replace")
    try:
        trace, _ = json.JSONDecoder().raw_decode(text)
        return [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _names(schematic: bytes) -> dict[int, str] | None:
    found = _NAMES.search(schematic)
    if found is None:
        return None
    try:
        table = ast.literal_eval(found[1].decode("utf-8"))
    except (ValueError, SyntaxError):
        return None
    return {int(number): str(name) for number, name in table.items()}


def _node_of(event: Mapping[str, Any]) -> int:
    return int(event["args"]["id"], 16) & ((1 << _NODE_BITS) - 1)


def _cycles(events: Iterable[Mapping[str, Any]]) -> tuple[dict[int, float], float]:
    """Node -> its cycles, and all there are from 0 to the end."""
    changes: list[tuple[int, int, bool, int]] = []  # when, +1 or -1, whether a transfer, node
    for event in events:
        start, duration = int(event["ts"]), int(event["dur"])
        if duration > 0:
            key = (_TRANSFER in event["args"]["flags"], _node_of(event))
            changes += [(start, 1, *key), (start + duration, -1, *key)]
    changes.sort()
    cycles: dict[int, float] = collections.defaultdict(float)
    active: dict[bool, collections.Counter[int]] = {
        False: collections.Counter(),
        True: collections.Counter(),
    }
    now = 0
    for when, change, transfer, node in changes:
        working = active[False] or active[True]
        if when > now and working:
            each = (when - now) / working.total()
            for other, count in working.items():
                cycles[other] += each * count
        now = when
        counter = active[transfer]
        counter[node] += change
        if not counter[node]:
            del counter[node]
    return cycles, float(now)


def _spilled(events: Iterable[Mapping[str, Any]]) -> collections.Counter[int]:
    """Node -> bytes that go out for want of room, and come back, while it is worked on."""
    spilled: collections.Counter[int] = collections.Counter()
    for event in events:
        if _TRANSFER in event["args"]["flags"] and any(word in event["name"] for word in _BETWEEN):
            traffic = event["args"]["bw_info"]
            spilled[_node_of(event)] += traffic["dram_read"] + traffic["dram_write"]
    return spilled
