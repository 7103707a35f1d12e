"""The rule of two clocks, on programs small enough to do by hand."""

import dataclasses
import itertools

import pytest

from relay_passes.planner.problem import DEVICES, Choice, Cut, Op, Problem, Waiting
from relay_passes.planner.timeline import Part, Wait, evaluate, last_readers

HALF, OTHER = Cut(0, 1, 2), Cut(0, 1, 4)


def _problem(*ops, wait_us=10.0, region_us=0.0, border=0.0):
    price = dict.fromkeys(itertools.permutations(DEVICES, 2), wait_us)
    waiting = Waiting(wait_us=price, region_us=region_us, border_us_per_byte=border)
    return Problem(ops, waiting)


def _on(device, us, *inputs, output=False, nbytes=0):
    choice = Choice({device: us}, (None,) * len(inputs))
    return Op((choice,), inputs, nbytes, is_output=output)


def _split(gpu, npu, *inputs, reads=(), makes=HALF, gather_us=0.0, output=False, nbytes=0):
    choice = Choice({"gpu": gpu, "npu": npu}, reads, makes, gather_us=gather_us)
    return Op((choice,), inputs, nbytes, is_output=output)


def _run(problem):
    return evaluate(problem, [0] * len(problem.ops))


def _waited(timeline):
    return [(wait.waiter, wait.on, wait.op) for wait in timeline.waits]


def test_one_device_never_waits_until_the_end():
    timeline = _run(_problem(_on("gpu", 3), _on("gpu", 4, 0, output=True)))
    assert timeline.total_us == 3 + 4 + 10
    assert timeline.waits == (Wait("cpu", "gpu", 2, 17),)
    assert timeline.parts == (Part(0, "gpu", 0, 3), Part(1, "gpu", 3, 7))
    assert timeline.busy_us == {"cpu": 0, "gpu": 7, "npu": 0}


def test_independent_work_runs_at_the_same_time():
    timeline = _run(_problem(_on("gpu", 30), _on("npu", 40), _on("gpu", 5, 1)))
    assert timeline.parts[2] == Part(2, "gpu", 50, 55)
    assert timeline.waits == (Wait("gpu", "npu", 2, 20),)


def test_one_wait_serves_all_that_was_submitted_before():
    ops = _on("npu", 1), _on("npu", 1), _on("gpu", 1, 0), _on("gpu", 1, 1), _on("npu", 1)
    assert _waited(_run(_problem(*ops))) == [("gpu", "npu", 2)]
    later = _on("npu", 1), _on("gpu", 1, 0), _on("npu", 1), _on("gpu", 1, 2)
    assert _waited(_run(_problem(*later))) == [("gpu", "npu", 1), ("gpu", "npu", 3)]


def test_a_wait_that_comes_late_finds_the_work_done():
    timeline = _run(_problem(_on("npu", 5), _on("gpu", 100), _on("gpu", 1, 0)))
    assert timeline.waits == (Wait("gpu", "npu", 2, 0),)
    assert timeline.total_us == 101


def test_what_the_other_waited_for_is_seen_too():
    ops = _on("cpu", 1), _on("gpu", 1, 0), _on("npu", 1, 0, 1)
    assert _waited(_run(_problem(*ops))) == [("gpu", "cpu", 1), ("npu", "gpu", 2)]
    ops = _on("cpu", 1), _on("gpu", 1, 0), _on("npu", 1, 1), _on("npu", 1, 0)
    assert _waited(_run(_problem(*ops))) == [("gpu", "cpu", 1), ("npu", "gpu", 2)]
    ops = _on("npu", 1, output=True), _on("gpu", 1, 0, output=True)
    assert _waited(_run(_problem(*ops))) == [("gpu", "npu", 1), ("cpu", "gpu", 2)]


def test_the_other_may_know_less():
    ops = _on("gpu", 1, output=True), _on("npu", 1, output=True)
    assert _waited(_run(_problem(*ops))) == [("cpu", "gpu", 2), ("cpu", "npu", 2)]


def test_parts_read_as_they_were_made_need_no_wait():
    ops = _split(10, 20), _split(1, 2, 0, reads=(HALF,), output=True)
    timeline = _run(_problem(*ops))
    assert timeline.parts[2:] == (Part(1, "gpu", 10, 11), Part(1, "npu", 20, 22))
    assert _waited(timeline) == [("cpu", "gpu", 2), ("cpu", "npu", 2)]
    assert timeline.total_us == 22 + 10


@pytest.mark.parametrize("read", [None, OTHER])
def test_a_whole_or_another_cut_keeps_both_waiting(read):
    timeline = _run(_problem(_split(10, 20), _split(1, 2, 0, reads=(read,), makes=OTHER)))
    assert _waited(timeline) == [("gpu", "npu", 1), ("npu", "gpu", 1)]
    # Neither sees the other's wait: both start from what was there before.
    assert timeline.parts[2:] == (Part(1, "gpu", 30, 31), Part(1, "npu", 20, 22))


def test_a_share_of_a_whole_waits_for_its_maker():
    timeline = _run(_problem(_on("gpu", 10), _split(1, 2, 0, reads=(HALF,))))
    assert _waited(timeline) == [("npu", "gpu", 1)]


def _early(us, late_us):
    return Op((Choice({"gpu": us}, (), early=HALF, late_us=late_us),))


@pytest.mark.parametrize(("read", "begins"), [(HALF, 20), (OTHER, 40), (None, 40)])
def test_the_npu_begins_with_what_the_gpu_makes_early(read, begins):
    """Made by 30, the NPU's part by 10; a wait costs 10."""
    reader = _split(5, 7, 0, reads=(read,), makes=HALF)
    timeline = _run(_problem(_early(30, 20), reader))
    assert timeline.parts[1:] == (Part(1, "gpu", 30, 35), Part(1, "npu", begins, begins + 7))
    assert timeline.waits == (Wait("npu", "gpu", 1, begins),)


def test_gathering_is_paid_once_per_device():
    ops = _split(1, 1, gather_us=4), _on("gpu", 1, 0), _on("gpu", 1, 0), _on("cpu", 1, 0)
    timeline = _run(_problem(*ops, wait_us=0))
    assert timeline.busy_us == {"cpu": 1 + 4, "gpu": 1 + 4 + 1 + 1, "npu": 1}
    own = _split(1, 1, gather_us=4), _split(1, 1, 0, reads=(HALF,))
    assert _run(_problem(*own)).busy_us["gpu"] == 2


def test_the_cpu_gathers_outputs():
    assert _run(_problem(_split(1, 1, gather_us=4, output=True))).total_us == 1 + 10 + 4
    read = _split(1, 1, gather_us=4, output=True), _on("cpu", 1, 0)
    assert _run(_problem(*read)).total_us == 1 + 10 + 4 + 1


def test_a_whole_is_not_gathered():
    whole = Op((Choice({"gpu": 1.0}, (), gather_us=4.0),), is_output=True)
    assert _run(_problem(whole)).total_us == 1 + 10


def test_last_readers():
    assert last_readers(_problem(_on("gpu", 1), _on("gpu", 1, 0), _on("gpu", 1, 0))) == [2, -1, -1]


def test_a_wait_ends_a_region():
    ops = (
        _on("npu", 1),
        _on("npu", 1),
        _on("gpu", 1, 0),  # another device waits
        _on("npu", 1, 1),
        _on("npu", 1, 2),  # the NPU waits
    )
    timeline = _run(_problem(*ops, region_us=100, wait_us=0))
    assert timeline.regions == ((0, 1), (3,), (4,))
    assert timeline.region_of == (0, 0, None, 1, 2)
    assert timeline.busy_us["npu"] == 3 * 100 + 4
    assert timeline.parts[0] == Part(0, "npu", 100, 101)


def test_border_of_a_region():
    ops = (
        _on("gpu", 0, nbytes=8),
        _on("npu", 0, 0, nbytes=16),  # reads 8
        _on("npu", 0, 0, 1, nbytes=32),  # again: free; the 16 never leave the chip
        _on("gpu", 0, 2, nbytes=64),  # the 32 leave
        _on("npu", 0, 2, 3, nbytes=128, output=True),  # a new region reads 32 and 64, writes 128
    )
    timeline = _run(_problem(*ops, border=0.5))
    assert timeline.border_bytes == 8 + 32 + 32 + 64 + 128
    assert timeline.busy_us["npu"] == timeline.border_bytes / 2
    # 10 for the wait, 4 to read, 16 to write, the GPU waits, the NPU waits, 48 and 64
    assert timeline.total_us == 10 + 4 + 16 + 10 + 10 + 48 + 64 + 10


def test_a_region_is_cut_where_it_is_to_be():
    ops = [
        _on("npu", 1, nbytes=8),
        _on("npu", 1, 0, nbytes=16),
        dataclasses.replace(_on("npu", 1, 0, 1, nbytes=4, output=True), breaks=True),
    ]
    timeline = _run(_problem(*ops, region_us=100, border=1))
    assert timeline.regions == ((0, 1), (2,))
    assert timeline.border_bytes == 8 + 16 + 8 + 16 + 4  # both leave, both come back
    assert timeline.busy_us["npu"] == 2 * 100 + 3 + 52
    assert _waited(timeline) == [("cpu", "npu", 3)]  # the NPU does its jobs in order
    # Nothing to cut: elsewhere, or where a region begins anyhow.
    first = dataclasses.replace(ops[0], breaks=True)
    assert _run(_problem(first, ops[1], region_us=100)).regions == ((0, 1),)
    gpu = dataclasses.replace(_on("gpu", 1), breaks=True)
    assert _run(_problem(ops[0], gpu, _on("npu", 1, 0))).regions == ((0, 2),)


def _fusing(gpu, alone_us, *inputs, mates, reads=None, makes=None, npu=None):
    us = {"gpu": gpu} if npu is None else {"gpu": gpu, "npu": npu}
    choice = Choice(us, reads or (None,) * len(inputs), makes, alone_us=alone_us)
    return Op((choice,), inputs, mates=mates)


def test_what_cannot_join_its_producers_kernel_costs_more():
    after = _fusing(1, 7, 0, mates=(0,))
    assert _run(_problem(_on("gpu", 3), after, wait_us=0)).busy_us["gpu"] == 4
    assert _run(_problem(_on("npu", 3), after, wait_us=0)).busy_us["gpu"] == 8
    assert _run(_problem(_on("gpu", 3), _fusing(1, 7, 0, mates=()))).busy_us["gpu"] == 11
    # With one mate of two it still joins.
    two = _on("gpu", 3), _on("npu", 3), _fusing(1, 7, 0, 1, mates=(0, 1))
    assert _run(_problem(*two, wait_us=0)).busy_us["gpu"] == 4


def test_a_part_joins_the_part_that_is_cut_alike():
    def run(makes, reads):
        part = _fusing(1, 7, 0, mates=(0,), reads=(reads,), makes=HALF, npu=0)
        return _run(_problem(_split(3, 3, makes=makes), part, wait_us=0)).busy_us["gpu"]

    assert run(HALF, HALF) == 4
    assert run(OTHER, HALF) == 11
    assert run(OTHER, None) == 11


def test_border_of_parts():
    quarter = _split(0, 0, 0, reads=(OTHER,), makes=OTHER, nbytes=16)
    whole = _on("npu", 0, 1)
    timeline = _run(_problem(_on("gpu", 0, nbytes=8), quarter, whole, border=1))
    # A quarter of 8; then the NPU waits for the GPU's part, so its quarter of 16 has left.
    assert timeline.border_bytes == 2 + 4 + 16


def test_one_region_reads_the_rest_of_what_it_had_a_part_of():
    part, whole = _split(0, 0, 0, reads=(HALF,)), _on("npu", 0, 0)
    assert _run(_problem(_on("gpu", 0, nbytes=8), part, whole, border=1)).border_bytes == 8


def test_plans_that_do_not_fit():
    with pytest.raises(ValueError, match="1 choices for 2 operators"):
        evaluate(_problem(_on("gpu", 1), _on("gpu", 1)), [0])
    with pytest.raises(IndexError):
        evaluate(_problem(_on("gpu", 1)), [1])
