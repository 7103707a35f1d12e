"""From placed operators to regions, kernels and code."""

import dataclasses
from types import SimpleNamespace

import pytest
import tiny_models as tiny

from hetero_tvm import lowering, npu_compiler, pipeline
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig
from hetero_tvm.errors import BadInput
from relay_passes import npu_support
from target_specs.loader import load_spec


def placed(tmp_path, **config):
    """The state behind placing, every operator on the NPU that it can compute."""
    path = tiny.mlp(tmp_path / "mlp.onnx")
    config = BuildConfig(model=path, output=tmp_path / "m.so", devices="npu", **config)
    state = State(config=config, spec=load_spec(config.target), note=lambda line: None)
    return pipeline.run(state, plan_only=True)


def test_regions_leave_the_module_and_the_record_keeps_whole_operators(tmp_path):
    state = lowering.split(placed(tmp_path, target="host"))
    assert {"first", "relu", "second"} <= state.record["operators"].keys()
    state = lowering.lower_for_npu(lowering.group(state))
    (region,) = state.regions
    assert {"first", "second"} <= set(region.names)
    main = state.mod["main"].script()
    assert region.symbol in main
    assert "R.matmul" not in main


def test_shared_weights_that_the_npu_cannot_address_are_refused(tmp_path, monkeypatch):
    state = placed(tmp_path, target="snapdragon-8-gen-3", estimate=False)
    config = dataclasses.replace(state.config, share_npu_weights=True)
    state = dataclasses.replace(state, config=config, compiled=(object(),))
    large = b"x" * 101
    together = SimpleNamespace(files={"a": large}, regions=(SimpleNamespace(peak_bytes=7),))
    monkeypatch.setattr(npu_compiler, "compile_together", lambda *_, **__: together)
    monkeypatch.setattr(npu_support, "window_bytes", lambda npu: 100)
    with pytest.raises(BadInput, match="--no-shared-npu-weights"):
        lowering.share_npu(state)
    monkeypatch.setattr(npu_support, "window_bytes", lambda npu: 101)
    assert lowering.share_npu(state).npu_compiler_bytes == 7
