"""A recorded trace is what Perfetto and Chrome read."""

import itertools
import json
import subprocess

import pytest
from recorded_model import RUNS, recorded
from trace_schema import check_schema

from hetero_tvm.profile_trace import recorded_trace


def _document():
    model, runs, _ = recorded()
    return recorded_trace(runs, model.manifest.calls, "demo", "measured")


def test_is_valid_and_names_the_threads():
    document = json.loads(json.dumps(_document()))
    threads = check_schema(document)
    assert {"GPU (driver's times)", "NPU (its worker)"} < set(threads.values())
    assert document["otherData"]["provenance"] == "measured"


def test_has_every_run_and_what_kernels_compute():
    model, _, _ = recorded()
    spans = [e for e in _document()["traceEvents"] if e["ph"] == "X"]
    assert [e["args"]["run"] for e in spans if e["cat"] == "function"] == list(range(RUNS))
    kernels = [e for e in spans if e["cat"] == "kernel" and e["args"]["run"] == 0]
    wanted = [c for c in model.manifest.calls["main"] if c.device == "gpu"]
    assert [e["args"]["operators"] for e in kernels] == [list(c.operators) for c in wanted]
    assert any(e["name"] == "NPU waits for GPU" for e in spans)


def test_spans_of_a_thread_lie_in_each_other_or_behind_each_other():
    """Perfetto drops spans that overlap by a part."""
    spans = [e for e in _document()["traceEvents"] if e["ph"] == "X"]
    for tid in {e["tid"] for e in spans}:
        stack = []
        of_thread = [(e["ts"], e["ts"] + e["dur"]) for e in spans if e["tid"] == tid]
        for start, end in sorted(of_thread, key=lambda span: (span[0], -span[1])):
            while stack and stack[-1] <= start + 1e-6:
                stack.pop()
            assert not stack or end <= stack[-1] + 1e-6
            stack.append(end)


def test_arrows_lead_from_submissions_to_work():
    events = _document()["traceEvents"]
    starts = {e["id"]: e for e in events if e["ph"] == "s"}
    ends = {e["id"]: e for e in events if e["ph"] == "f"}
    assert starts.keys() == ends.keys() and starts
    assert all(starts[i]["tid"] != ends[i]["tid"] for i in starts)


def test_times_begin_at_zero_and_go_on():
    spans = [e for e in _document()["traceEvents"] if e["ph"] == "X"]
    functions = [e for e in spans if e["cat"] == "function"]
    assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in itertools.pairwise(functions))
    assert 0 <= functions[0]["ts"] < 1e5


def test_perfettos_own_trace_processor_reads_it(tmp_path):
    """Needs the binary that the package fetches at its first use; skipped where it cannot."""
    perfetto = pytest.importorskip("perfetto.trace_processor")
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(_document()))
    try:
        config = perfetto.TraceProcessorConfig(load_timeout=20)
        processor = perfetto.TraceProcessor(trace=str(path), config=config)
    except (OSError, subprocess.SubprocessError, perfetto.TraceProcessorException) as error:
        pytest.skip(f"perfetto's trace processor cannot be had here: {error}")
    spans = [e for e in _document()["traceEvents"] if e["ph"] == "X"]
    (row,) = processor.query("select count(*) as n from slice")
    assert row.n == len(spans)
    (row,) = processor.query("select sum(value) as n from stats where severity = 'error'")
    assert row.n == 0
    processor.close()
