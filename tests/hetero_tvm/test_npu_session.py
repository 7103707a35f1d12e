"""The worker's side of NPU compilation, as far as it works without the vendor's package."""

import json

import pytest

from hetero_tvm import npu_session

LOG = """
2026 [V:onnxruntime:, qnn.cc LogNodeSupport] Validation FAILED for 1 nodes in OrtNodeUnit (Erf) :
\tOperator type: Erf Node name: n0
\tREASON : Operators of type `Erf` are not supported by QNN EP.
2026 [V:onnxruntime:] Validation PASSED for 1 nodes in OrtNodeUnit (Conv) :
2026 [V:onnxruntime:, x] Validation FAILED for 2 nodes in OrtNodeUnit (MaxPool,Relu) :
\tREASON : Dilation is not supported.
2026 [V:onnxruntime:, x] Validation FAILED for 2 nodes in OrtNodeUnit (MaxPool,Relu) :
\tREASON : Dilation is not supported.
"""


def test_reasons_are_read_from_the_log_once_each():
    assert npu_session.parse_reasons(LOG) == [
        "Erf: Operators of type `Erf` are not supported by QNN EP",
        "MaxPool,Relu: Dilation is not supported",
    ]


def test_a_log_without_reasons_gives_none():
    assert npu_session.parse_reasons("all well\n") == []


def test_soc_is_always_given():
    with pytest.raises(AssertionError, match="compiles for a v68"):
        npu_session.open_session(b"", {})


@pytest.mark.parametrize("together", [False, True])
def test_worker_reports_each_region_and_stops_at_a_refusal(tmp_path, monkeypatch, together):
    asked = []

    def compile_context(model, result, options, entries):
        asked.append((model.name, result.name, options))
        refused = ["no"] if "b" in model.name else []
        return {"reasons": refused, "seconds": 1.0, "peak_bytes": 2}, None

    monkeypatch.setattr(npu_session, "compile_context", compile_context)
    job = tmp_path / "job.json"
    job.write_text(
        json.dumps({"keys": ["a", "b", "c"], "options": {"soc_model": "57"}, "together": together})
    )
    npu_session.work(job)
    assert asked[0] == ("a.onnx", "a_ctx.onnx", {"soc_model": "57"})
    assert len(asked) == 2
    assert json.loads((tmp_path / "a.json").read_text())["reasons"] == []
    assert json.loads((tmp_path / "b.json").read_text())["reasons"] == ["no"]
    assert not (tmp_path / "c.json").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_what_is_compiled_together_is_reported_with_the_last(tmp_path, monkeypatch):
    seen = []

    def compile_context(model, result, options, entries):
        seen.append((sorted(path.name for path in tmp_path.glob("*.json")), dict(entries)))
        return {"reasons": [], "seconds": 1.0, "peak_bytes": 2}, None

    monkeypatch.setattr(npu_session, "compile_context", compile_context)
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"keys": ["a", "b"], "options": {}, "together": True}))
    npu_session.work(job)
    assert [names for names, _ in seen] == [["job.json"], ["job.json"]]
    assert all(entries["ep.share_ep_contexts"] == "1" for _, entries in seen)
    assert ["ep.stop_share_ep_contexts" in entries for _, entries in seen] == [False, True]
    assert (tmp_path / "a.json").exists()
    assert (tmp_path / "b.json").exists()
