"""The order of phases, the runner's checks, and what `keep_going` does."""

import dataclasses

import pytest
import tiny_models as tiny
from tvm import relax

from hetero_tvm import npu_compiler, pipeline
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig
from target_specs.loader import load_spec


def start(tmp_path, **config):
    path = tiny.mlp(tmp_path / "mlp.onnx")
    return State(
        config=BuildConfig(model=path, target="host", output=tmp_path / "m.so", **config),
        spec=load_spec("host"),
        note=lambda line: None,
    )


def test_phases_in_order(tmp_path):
    before, after = [], []
    state = pipeline.run(
        start(tmp_path),
        on_phase=lambda phase: before.append(phase.name),
        after_phase=lambda phase, state: after.append(phase.name),
    )
    assert before == after == [phase.name for phase in pipeline.PHASES]
    assert isinstance(state.executable, relax.VMExecutable)


def test_plan_only_stops_before_compiling(tmp_path):
    names = []
    state = pipeline.run(
        start(tmp_path), plan_only=True, on_phase=lambda phase: names.append(phase.name)
    )
    assert names == [phase.name for phase in pipeline.PHASES if phase.plan]
    assert state.plan is not None
    assert state.executable is None


def test_a_malformed_module_is_found_after_its_phase(tmp_path, monkeypatch):
    """The runner checks, not the phase: an undefined variable left behind stops the build."""

    def break_it(state):
        func = state.mod["main"]
        loose = relax.Var("loose", relax.TensorType([4, 16], "float32"))
        broken = relax.Function(func.params, relax.SeqExpr([], loose), loose.ty)
        return dataclasses.replace(state, mod=type(state.mod)({"main": broken}))

    bad = tuple(
        dataclasses.replace(phase, run=break_it) if phase.name == "group" else phase
        for phase in pipeline.PHASES
    )
    monkeypatch.setattr(pipeline, "PHASES", bad)
    done = []
    with pytest.raises(Exception, match="loose"):
        pipeline.run(start(tmp_path), after_phase=lambda phase, state: done.append(phase.name))
    assert done[-1] == "split"


def test_rejected_region_stops_the_build(tmp_path, monkeypatch):
    def reject(regions, *args, **kwargs):
        raise npu_compiler.NpuRegionRejected(regions[0].symbol, ["too odd"], regions[0].ops)

    monkeypatch.setattr(npu_compiler, "compile_regions", reject)
    with pytest.raises(npu_compiler.NpuRegionRejected, match=r"npu_region_0: .*too odd"):
        pipeline.run(start(tmp_path, devices="npu"))


def test_keep_going_moves_what_is_rejected(tmp_path, monkeypatch):
    real = npu_compiler.compile_regions
    calls = []

    def reject_once(regions, *args, **kwargs):
        calls.append(len(regions))
        if len(calls) == 1:
            raise npu_compiler.NpuRegionRejected(regions[0].symbol, ["too odd"], regions[0].ops)
        return real(regions, *args, **kwargs)

    monkeypatch.setattr(npu_compiler, "compile_regions", reject_once)
    notes = []
    state = dataclasses.replace(start(tmp_path, devices="npu", keep_going=True), note=notes.append)
    state = pipeline.run(state)
    assert state.executable is not None
    assert any("too odd" in note for note in notes)
    assert state.plan.macs["npu"] == 0
    assert state.plan.macs["gpu"] > 0
    assert all("too odd" in r["reason"] for r in state.plan.refused if r["device"] == "npu")
