"""What the NPU must not compute, as the user says; and that the plan keeps to it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models as tiny

from hetero_tvm import compiler
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig, LlmStep
from hetero_tvm.errors import BadInput
from hetero_tvm.placing import _clearly_faster


def test_an_operator_that_is_kept_off_the_npu(tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx")
    for target in ("host", "snapdragon-8-gen-3"):
        report = compiler.build(
            BuildConfig(
                model=path,
                target=target,
                output=None,
                devices="npu",
                off_npu=("second",),
                estimate=False,
            )
        )
        device = {op.name: op.device for op in report.plan.ops}
        assert (device["first"], device["second"]) == ("npu", "gpu")
        (second,) = (op for op in report.plan.ops if op.name == "second")
        assert second.declined["npu"] == "kept off the NPU by --off-npu"


@pytest.mark.parametrize(
    ("patterns", "off"),
    [(("*",), {"first", "relu", "second"}), (("se*", "r?lu"), {"relu", "second"})],
)
def test_operators_are_kept_off_the_npu_by_patterns(tmp_path, patterns, off):
    path = tiny.mlp(tmp_path / "mlp.onnx")
    config = BuildConfig(model=path, target="host", output=None, off_npu=patterns)
    ops = compiler.build(config).plan.ops
    said = {op.name for op in ops if op.declined.get("npu") == "kept off the NPU by --off-npu"}
    assert off <= said
    assert said <= off | {"bias"}


def test_an_operator_that_there_is_not(tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx")
    with pytest.raises(BadInput, match=r"--off-npu secnd: no such operator.*did you mean second"):
        compiler.build(BuildConfig(model=path, target="host", output=None, off_npu=("secnd",)))


@pytest.mark.parametrize(("split_us", "followed"), [(98.0, "gpu"), (89.0, "split")])
def test_a_language_models_step_takes_both_devices_only_for_a_clear_gain(split_us, followed):
    us = {"gpu": 100.0, "npu": 140.0, "layer": 99.0, "split": split_us}
    plans = {name: SimpleNamespace(predicted_us=value) for name, value in us.items()}
    said = []
    state = _clearly_faster(
        State(
            config=BuildConfig(
                model=Path("m"),
                target="host",
                output=None,
                llm=LlmStep(importer=None, rows=1, capacity=8),
            ),
            spec=None,
            note=said.append,
            plan=plans["split"],
            plans=plans,
        )
    )
    assert state.plan is plans[followed]
    assert said == (
        ["following the plan of gpu: split would gain 2.0%, too little"]
        if followed == "gpu"
        else []
    )
