"""A predicted schedule, laid out to nodes."""

import json

import pytest

from schedules.npu_trace import NodeTrace, read_trace

SCHEMATIC = (
    b"graph = { # rest }\nqnn_name_translations = {\n0x0000000000000011: 'n0',\n"
    b"0x0000000000000012: 'n1/Fusion',\n0x0000000000000013: 'idle',\n}\nmore = {\n}\n"
)


def event(node, start, duration, *, transfer=False, name="q::Add", read=0, write=0):
    return {
        "name": name, "ph": "X", "ts": start, "dur": duration,
        "args": {
            # An operation's own number is above the node's.
            "id": hex((0xABC << 32) | node),
            "flags": ["for_dma" if transfer else "for_hvx"],
            "bw_info": {"dram_read": read, "dram_write": write},
        },
    }  # fmt: skip


def log(*events):
    rest = json.dumps({"traceEvents": [{"ph": "M"}, *events]}, separators=(",", ":"))
    body = rest.replace('{"traceEvents":[', '{ \n  "traceEvents": [')
    return b"\x10\x00head" + body.encode() + b"graph\x00\x00tail"


def test_units_that_work_at_once_share_the_time():
    # n0 alone for 10, both for 20 (two units for n1), n1's transfer alone for 10
    events = [
        event(0x11, 0, 30),
        event(0x12, 10, 20),
        event(0x12, 10, 20),
        event(0x12, 0, 40, transfer=True),
    ]
    found = read_trace(log(*events), SCHEMATIC)
    assert found.keys() == {"n0", "n1/Fusion"}
    assert found["n0"].share == pytest.approx((10 + 20 / 3) / 40)
    assert found["n1/Fusion"].share == pytest.approx((20 * 2 / 3 + 10) / 40)


def test_gaps_and_what_is_no_nodes_count_to_nobody():
    events = [event(0x11, 10, 10), event(0x02, 20, 20)]  # 0x02: an input
    assert read_trace(log(*events), SCHEMATIC) == {"n0": NodeTrace(share=0.25)}


def test_what_does_not_fit_on_the_chip_is_counted_in_bytes():
    spill = event(0x11, 0, 5, transfer=True, name="default_dma (@Spill)", write=100)
    fill = event(0x12, 5, 5, transfer=True, name="default_dma (@Fill)", read=60)
    weights = event(0x12, 5, 5, transfer=True, name="default_dma (weights)", read=1000)
    found = read_trace(log(spill, fill, weights), SCHEMATIC)
    assert {name: node.spilled_bytes for name, node in found.items()} == {
        "n0": 100,
        "n1/Fusion": 60,
    }


@pytest.mark.parametrize(
    ("log_bytes", "schematic"),
    [
        (b"", SCHEMATIC),
        (log(event(0x11, 0, 5)), b"no names"),
        (log(event(0x11, 0, 5)), SCHEMATIC.replace(b"'n0'", b"n0 +")),
        (log(event(0x11, 0, 5)) * 2, SCHEMATIC),
        (log(event(0x11, 0, 5))[:60], SCHEMATIC),
        (log({"ph": "X", "ts": 0, "dur": 3, "args": {}}), SCHEMATIC),
        (log(event(0x11, 0, 0)), SCHEMATIC),
    ],
    ids=["empty", "no_names", "bad_names", "two_graphs", "cut_short", "other_format", "no_time"],
)
def test_anything_else_is_no_answer(log_bytes, schematic):
    assert read_trace(log_bytes, schematic) is None
