"""A recording has everything that happened, in its order, on the host's clock."""

import time

import pytest
from recorded_model import recorded

from hetero_tvm.loader import load
from hetero_tvm.recording import Recorder
from hetero_tvm.run import complete_inputs


def test_calls_are_those_of_the_manifest_in_order():
    model, runs, _ = recorded()
    wanted = [call.symbol for call in model.manifest.calls["main"]]
    for run in runs:
        calls = sorted((e for e in run.events if e.kind == "call"), key=lambda e: e.call)
        assert [event.name for event in calls] == wanted


def test_every_call_of_a_device_has_its_work():
    model, runs, _ = recorded()
    for run in runs:
        made = {event.call: event for event in run.events if event.kind == "call"}
        devices = {
            call: entry.device
            for call, entry in zip(sorted(made), model.manifest.calls["main"], strict=True)
        }
        for kind, device in (("kernel", "gpu"), ("region", "npu")):
            worked = {event.call for event in run.events if event.kind == kind}
            assert worked == {call for call, where in devices.items() if where == device}
        assert {"gpu", "npu"} <= set(devices.values())


def test_work_comes_after_its_submission_and_before_the_end_of_the_run():
    """The driver's times, mapped to the host's clock, agree with the host's own stamps."""
    _, runs, _ = recorded()
    slack_ns = 50_000  # a clock is read from outside: what the call around it takes
    for run in runs:
        submitted = {e.call: e.start_ns for e in run.events if e.kind == "submit"}
        for event in run.events:
            if event.kind in ("kernel", "region"):
                assert submitted[event.call] - slack_ns <= event.start_ns <= event.end_ns
                assert event.end_ns <= run.end_ns + slack_ns


def test_waits_say_who_waits_for_whom():
    _, runs, _ = recorded()
    waits = {(e.waiter, e.waits_for) for run in runs for e in run.events if e.kind == "wait"}
    assert ("npu", "gpu") in waits
    # For which device the processor comes too early depends on the machine's other work.
    assert any(waiter == "cpu" for waiter, _ in waits)


def test_functions_and_clock():
    _, runs, _ = recorded()
    for run in runs:
        (function,) = (event for event in run.events if event.kind == "function")
        assert function.name == "main"
        assert run.start_ns <= function.start_ns <= function.end_ns <= run.end_ns
        assert function.end_ns < time.monotonic_ns()


def test_nothing_is_recorded_afterwards_and_old_events_are_gone():
    model, _, _ = recorded()
    fed = model.feed(complete_inputs({}, model.manifest, seed=3))
    with Recorder(model) as first:
        model.call(fed, first.function)
    before = len(first.events)
    model.call(fed)
    with Recorder(model) as second:
        model.call(fed, second.function)
    assert len(second.events) == pytest.approx(before, abs=2)
    assert second.events[0].start_ns > first.events[-1].end_ns
    assert second.lost == first.lost == 0


def test_what_does_not_fit_is_counted():
    model, _, _ = recorded()
    fed = model.feed(complete_inputs({}, model.manifest, seed=3))
    with Recorder(model, events_per_thread=4) as recorder:
        for _ in range(5):
            model.call(fed, recorder.function)
    assert recorder.lost > 0
    by_thread = [e.thread for e in recorder.events if e.thread >= 0]
    assert max(by_thread.count(thread) for thread in set(by_thread)) == 4


def test_a_failed_run_ends_the_recording():
    from recorded_model import artefact

    model = load(artefact())
    with pytest.raises(ZeroDivisionError), Recorder(model):
        raise ZeroDivisionError
    fed = model.feed(complete_inputs({}, model.manifest, seed=3))
    with Recorder(model) as recorder:
        model.call(fed, recorder.function)
    assert any(event.kind == "kernel" for event in recorder.events)
