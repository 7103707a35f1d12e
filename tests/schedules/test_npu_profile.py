"""What the vendor's compiler writes, and what becomes of its faults."""

import dataclasses
import importlib.util

import numpy as np
import pytest
from onnx import helper, numpy_helper

from schedules import npu_profile
from schedules.npu_profile import NoEstimate, Profile, parse_profile, profile_models

needs_qnn = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None,
    reason="onnxruntime-qnn is not installed (pip install 'hetero-tvm[qnn]')",
)
OPTIONS = {
    "soc_model": "77",
    "vtcm_mb": "8",
    "htp_graph_finalization_optimization_mode": "3",
}
HEADER = "Msg Timestamp,Message,Time,Unit of Measurement,Timing Source,Event Level,Event Identifier"
TABLE = [
    HEADER,
    "0,FINALIZE,171017,US,BACKEND,ROOT,QNN (finalize) time",
    "0,BACKEND,0,US,BACKEND,ROOT,Performance Estimates",
    "0,BACKEND,1015017,CYCLES,BACKEND,SUB-EVENT,Simulated (Accelerator exec cycles)",
    "0,BACKEND,593,US,BACKEND,SUB-EVENT,Simulated (Accelerator exec time us)",
    "0,BACKEND,535,US,BACKEND,SUB-EVENT,Simulated (Accelerator exec time us (lower estimate))",
    "0,BACKEND,716,US,BACKEND,SUB-EVENT,Simulated (Accelerator exec time us (upper estimate))",
    "0,BACKEND,3565,BYTES,BACKEND,SUB-EVENT,Input Fill",
    "0,BACKEND,7,BYTES,BACKEND,SUB-EVENT,Intermediate Fill",
    "0,BACKEND,8,BYTES,BACKEND,SUB-EVENT,Intermediate Spill",
    "0,BACKEND,2097,BYTES,BACKEND,SUB-EVENT,Output Spill",
    "0,BACKEND,2,US,BACKEND,SUB-EVENT,Missing Ops (Number of Ops with no Costs associated)",
]
PROFILE = Profile(
    us=593,
    low_us=535,
    high_us=716,
    input_fill_bytes=3565,
    intermediate_fill_bytes=7,
    intermediate_spill_bytes=8,
    output_spill_bytes=2097,
    missing_ops=2,
)


def matmul(rows=64, depth=128, columns=256, dtype=np.float16, op="MatMul"):
    weight = np.random.default_rng(0).standard_normal((depth, columns), np.float32).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    names = ["x", "w"] if op == "MatMul" else ["x"]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, [rows, depth])],
        [helper.make_tensor_value_info("y", kind, [rows, columns])],
        [numpy_helper.from_array(weight, "w")] if op == "MatMul" else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def test_reads_the_rows_it_knows():
    assert parse_profile(TABLE) == PROFILE


def test_adds_up_several_graphs():
    doubled = parse_profile(TABLE + TABLE[1:])
    assert (doubled.us, doubled.high_us, doubled.missing_ops) == (1186, 1432, 4)


@pytest.mark.parametrize("lines", [[], [HEADER], TABLE[:6]], ids=["empty", "header", "cut_short"])
def test_no_estimate_is_none_and_never_zero(lines):
    assert parse_profile(lines) is None


def fake_worker(monkeypatch, tmp_path, body):
    """Put a script in the place of the vendor's compiler; `keys` and `done(key)` are there."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, os, signal, sys, time\n"
        "from pathlib import Path\n"
        "job = Path(sys.argv[1])\n"
        "keys = json.loads(job.read_text())['keys']\n"
        f"table = {chr(10).join(TABLE)!r}\n"
        "def done(key, error=None):\n"
        "    job.with_name(key + '.csv').write_text(table)\n"
        "    partial = job.with_name(key + '.partial')\n"
        "    partial.write_text(json.dumps({'error': error}))\n"
        "    partial.replace(job.with_name(key + '.json'))\n"
        f"{body}\n"
    )
    monkeypatch.setattr(npu_profile, "_WORKER", (str(script),))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the compiler crashed (SIGSEGV)"),
        ("sys.exit('no licence')", "the compiler ended with 1: no licence"),
        ("time.sleep(60)", "no estimate after 1 s"),
        ("done(key, 'Softmin: unsupported'); continue", "Softmin: unsupported"),
    ],
    ids=["crash", "error", "hang", "refusal"],
)
def test_a_fault_costs_one_model_only(monkeypatch, tmp_path, fault, reason):
    body = f"for key in keys:\n    if key == 'bad':\n        {fault}\n    done(key)"
    fake_worker(monkeypatch, tmp_path, body)
    lines = []
    models = {"first": b"1", "bad": b"2", "last": b"3"}
    found = profile_models(models, OPTIONS, timeout_s=1.0, progress=lines.append)
    assert found == {"first": PROFILE, "bad": NoEstimate(reason), "last": PROFILE}
    assert lines[-1] == "estimated 3 of 3 NPU regions"


def test_nothing_to_do_starts_nothing(monkeypatch):
    monkeypatch.setattr(npu_profile, "_start", None)
    assert profile_models({}, OPTIONS, timeout_s=1.0, progress=print) == {}


@needs_qnn
def test_the_compilers_own_words():
    """Deterministic; what a matmul must at least read and write is in the bytes."""
    models = {"a": matmul(), "b": matmul(), "odd": matmul(columns=128, op="Det")}
    found = profile_models(models, OPTIONS, timeout_s=120.0, progress=lambda line: None)
    first = found["a"]
    assert found["b"] == first
    assert first.low_us <= first.us <= first.high_us
    assert first.us > 0
    assert first.input_fill_bytes >= 2 * (64 * 128 + 128 * 256)
    assert first.output_spill_bytes >= 2 * 64 * 256
    assert first.missing_ops == 0
    assert isinstance(found["odd"], NoEstimate)
    assert found["odd"].reason


@needs_qnn
def test_a_soc_without_a_cost_table_gives_none():
    options = {**OPTIONS, "soc_model": "57"}
    found = profile_models({"a": matmul()}, options, timeout_s=120.0, progress=lambda line: None)
    assert found == {"a": NoEstimate("the compiler printed no estimate")}


@needs_qnn
def test_the_compilers_trace_names_the_nodes():
    """A trace adds shares and spills, and changes none of the figures."""
    plain = profile_models({"m": matmul()}, OPTIONS, 120.0, lambda line: None)["m"]
    traced = profile_models({"m": matmul()}, OPTIONS, 120.0, lambda line: None, trace=True)["m"]
    assert 0.1 < sum(traced.node_shares.values()) <= 1.0
    assert dataclasses.replace(traced, node_shares={}, node_spills={}) == plain
