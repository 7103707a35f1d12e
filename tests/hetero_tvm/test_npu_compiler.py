"""Regions to context binaries: in other processes, kept on disk, refusals with reasons."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hetero_tvm import npu_compiler
from hetero_tvm.errors import EnvironmentProblem
from hetero_tvm.npu_compiler import (
    NpuCompilerFailed,
    NpuRegionRejected,
    compile_regions,
    session_options,
)
from relay_passes.lower_npu import NpuRegion, TensorSpec
from target_specs.loader import load_spec

HTP = load_spec("snapdragon-8-gen-3").npu
HOST = load_spec("host").npu
ROOT = Path(__file__).parents[2]
needs_qnn = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None,
    reason="onnxruntime-qnn is not installed (pip install 'hetero-tvm[qnn]')",
)


def region(symbol="npu_region_0", op="MatMul", seed=0, rows=3, columns=5):
    """`out0 = op(in0, weight)`, or `op(in0)`."""
    weight = np.random.default_rng(seed).standard_normal((8, columns)).astype("float32")
    inputs = ["in0", "w"] if op == "MatMul" else ["in0"]
    shape = [rows, columns] if op == "MatMul" else [rows, 8]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["out0"])],
        "region",
        [helper.make_tensor_value_info("in0", TensorProto.FLOAT, [rows, 8])],
        [helper.make_tensor_value_info("out0", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w")] if op == "MatMul" else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return NpuRegion(
        symbol,
        model.SerializeToString(),
        (TensorSpec("in0", "float32", (rows, 8)),),
        (TensorSpec("out0", "float32", tuple(shape)),),
        (f"relax.{op.lower()}",),
    )


def test_stand_in_takes_models_as_they_are(tmp_path):
    (compiled,) = compile_regions([region()], HOST, cache_dir=tmp_path)
    assert compiled.onnx == region().onnx
    assert session_options(HOST) == {}
    assert not list(tmp_path.iterdir())


def test_nothing_to_compile_starts_nothing():
    assert compile_regions([], HTP, cache_dir=None) == ()


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'hetero-tvm\[qnn\]'"):
        compile_regions([region()], HTP, cache_dir=None)


@needs_qnn
def test_binary_runs_in_a_fresh_process(tmp_path):
    """Context binaries reload on x86, wholly on the NPU, with the model's names and numbers."""
    (compiled,) = compile_regions([region()], HTP, cache_dir=None)
    nodes = [node.op_type for node in onnx.load_from_string(compiled.onnx).graph.node]
    assert nodes == ["EPContext"]
    x = np.random.default_rng(1).standard_normal((3, 8)).astype("float32")
    (tmp_path / "model.onnx").write_bytes(compiled.onnx)
    np.save(tmp_path / "x.npy", x)
    code = """
import sys, numpy as np
from pathlib import Path
from hetero_tvm import npu_session
folder = Path(sys.argv[1])
session = npu_session.open_session((folder / "model.onnx").read_bytes(), {"soc_model": sys.argv[2]})
np.save(folder / "y.npy", session.run(["out0"], {"in0": np.load(folder / "x.npy")})[0])
"""
    command = [sys.executable, "-c", code, str(tmp_path), session_options(HTP)["soc_model"]]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    session = onnxruntime.InferenceSession(region().onnx, providers=["CPUExecutionProvider"])
    (exact,) = session.run(None, {"in0": x})
    found = np.load(tmp_path / "y.npy")
    # One rounding to 11 bits of each operand and of the result.
    assert np.linalg.norm(found - exact) / np.linalg.norm(exact) < 1e-3


@needs_qnn
def test_results_keep_their_order_and_equal_regions_are_compiled_once():
    regions = [region("npu_region_0", seed=1), region("npu_region_1", seed=2)]
    regions.append(region("npu_region_2", seed=1))
    lines = []
    first, second, third = compile_regions(regions, HTP, cache_dir=None, progress=lines.append)
    assert [first.symbol, second.symbol, third.symbol] == [r.symbol for r in regions]
    assert first.onnx == third.onnx != second.onnx
    assert len(lines) == 2
    assert first.compile_seconds > 0
    assert 50 << 20 < first.peak_bytes < 2 << 30


@needs_qnn
def test_cache_is_used_and_a_damaged_entry_is_not(tmp_path, caplog):
    (first,) = compile_regions([region()], HTP, cache_dir=tmp_path)
    (again,) = compile_regions([region()], HTP, cache_dir=tmp_path)
    assert not first.cached
    assert again.cached
    assert again.onnx == first.onnx
    (entry,) = (tmp_path / "npu").iterdir()
    entry.write_bytes(entry.read_bytes()[:-9])
    (repaired,) = compile_regions([region()], HTP, cache_dir=tmp_path)
    assert not repaired.cached
    assert "is damaged; compiling again" in caplog.text
    assert compile_regions([region()], HTP, cache_dir=tmp_path)[0].cached


@needs_qnn
def test_what_was_compiled_before_an_interruption_is_kept(tmp_path):
    regions = [region("npu_region_0", seed=1), region("npu_region_1", seed=2)]

    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_regions(regions, HTP, cache_dir=tmp_path, jobs=1, progress=interrupt)
    again = compile_regions(regions, HTP, cache_dir=tmp_path, jobs=1)
    assert [one.cached for one in again] == [True, False]


def test_cache_key_depends_on_all_that_matters(monkeypatch):
    key = npu_compiler._key([region().onnx], HTP)
    other_soc = load_spec("snapdragon-8-elite").npu
    assert npu_compiler._key([region(seed=3).onnx], HTP) != key
    assert npu_compiler._key([region().onnx], other_soc) != key
    assert npu_compiler._key([region().onnx], HTP, together=True) != key
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "0")
    assert npu_compiler._key([region().onnx], HTP) != key


@needs_qnn
def test_refusal_names_the_region_and_the_vendors_reason():
    regions = [region("npu_region_0"), region("npu_region_1", op="Erf")]
    with pytest.raises(NpuRegionRejected, match="npu_region_1: the NPU's compiler") as caught:
        compile_regions(regions, HTP, cache_dir=None)
    assert caught.value.symbol == "npu_region_1"
    assert caught.value.ops == ("relax.erf",)
    assert caught.value.reasons[0].startswith("Erf: Operators of type `Erf` are not supported")


def fake_worker(monkeypatch, tmp_path, body):
    """Put a script in the place of the vendor's compiler."""
    script = tmp_path / "worker.py"
    script.write_text(f"import os, signal, sys, time\n{body}\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(npu_compiler, "_WORKER", (str(script),))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"the compiler crashed \(SIGSEGV\)"),
        ("sys.exit('no licence')", "the compiler ended with 1: no licence"),
        ("time.sleep(60)", r"no result after 0\.5 s"),
    ],
    ids=["crash", "error", "hang"],
)
def test_vendors_faults_are_messages(monkeypatch, tmp_path, body, reason):
    fake_worker(monkeypatch, tmp_path, body)
    with pytest.raises(NpuCompilerFailed, match=reason):
        compile_regions([region()], HTP, cache_dir=None, timeout_s=0.5)


def test_regions_are_dealt_out_by_size():
    big, *small = (region(f"npu_region_{i}", seed=i) for i in range(4))
    waiting = {r.symbol: r for r in (big, *small)}
    waiting["npu_region_0"] = NpuRegion("npu_region_0", big.onnx * 9, (), (), ())
    assert npu_compiler._shares(waiting, 2) == [
        ["npu_region_0"],
        ["npu_region_1", "npu_region_2", "npu_region_3"],
    ]
    assert len(npu_compiler._shares(waiting, 9)) == 4


def test_job_files_hold_what_the_worker_needs(monkeypatch, tmp_path):
    """The worker is told keys and options; `soc_model` is always among them."""
    seen = tmp_path / "seen.json"
    fake_worker(monkeypatch, tmp_path, f"open({str(seen)!r}, 'w').write(open(sys.argv[1]).read())")
    with pytest.raises(NpuCompilerFailed, match="the compiler ended with 0"):
        compile_regions([region()], HTP, cache_dir=None)
    job = json.loads(seen.read_text())
    assert len(job["keys"]) == 1
    assert job["options"]["soc_model"] == "57"


@needs_qnn
def test_a_cache_that_cannot_be_written_does_not_cost_the_build(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    (compiled,) = compile_regions([region()], HTP, cache_dir=tmp_path / "file")
    assert compiled.onnx
    assert "is not kept" in caplog.text


LARGE = 1 << 15  # columns of a weight that is most of a binary
LENGTHS = {"v3_npu_region_0": 3, "v5_npu_region_0": 5}


@needs_qnn
def test_what_is_compiled_together_has_its_weights_once(tmp_path):
    regions = npu_compiler.uncompiled(
        [region(name, rows=n, columns=LARGE) for name, n in LENGTHS.items()]
    )
    together = npu_compiler.compile_together(regions, HTP, cache_dir=tmp_path)
    assert [done.symbol for done in together.regions] == list(LENGTHS)
    for done, before in zip(together.regions, regions, strict=True):
        assert npu_compiler.context_files(done.onnx) == set(together.files)
        assert (done.inputs, done.outputs) == (before.inputs, before.outputs)
        assert done.compile_seconds > 0
    (binary,) = together.files.values()
    alone, other = compile_regions(
        [region(name, rows=n, columns=LARGE) for name, n in LENGTHS.items()], HTP, cache_dir=None
    )
    assert npu_compiler.context_files(alone.onnx) == set()
    assert len(binary) < 0.6 * (len(alone.onnx) + len(other.onnx))
    again = npu_compiler.compile_together(regions, HTP, cache_dir=tmp_path)
    assert again.files == together.files
    assert [done.onnx for done in again.regions] == [done.onnx for done in together.regions]
    assert all(done.cached for done in again.regions)


@needs_qnn
def test_what_is_compiled_together_computes(tmp_path):
    """On the simulator, in the process that compiled: it loads such a binary in no other."""
    for name, rows in LENGTHS.items():
        (tmp_path / f"{name}.onnx").write_bytes(region(rows=rows).onnx)
    code = """
import sys, numpy as np, onnxruntime
from pathlib import Path
from hetero_tvm import npu_session
models = sorted(Path(sys.argv[1]).glob("*_0.onnx"))
sessions = []
for model in models:
    entries = npu_session.LAST if model == models[-1] else npu_session.TOGETHER
    result = model.with_name(f"{model.stem}_ctx.onnx")
    report, session = npu_session.compile_context(
        model, result, {"soc_model": sys.argv[2]}, entries
    )
    assert not report["reasons"], report
    sessions.append(session)
for model, session in zip(models, sessions):
    x = np.random.default_rng().standard_normal(session.get_inputs()[0].shape).astype("float32")
    cpu = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (exact,), (found,) = cpu.run(None, {"in0": x}), session.run(None, {"in0": x})
    # One rounding to 11 bits of each operand and of the result.
    assert np.linalg.norm(found - exact) / np.linalg.norm(exact) < 1e-3
"""
    command = [sys.executable, "-c", code, str(tmp_path), session_options(HTP)["soc_model"]]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120, check=False
    )
    assert done.returncode == 0


@needs_qnn
def test_a_refusal_among_those_compiled_together_is_named():
    regions = npu_compiler.uncompiled([region("small"), region("bad", op="Erf")])
    with pytest.raises(NpuRegionRejected, match="bad: the NPU's compiler rejects it: Erf"):
        npu_compiler.compile_together(regions, HTP, cache_dir=None)
