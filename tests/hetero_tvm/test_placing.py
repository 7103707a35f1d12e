"""What the NPU must not compute, as the user says; and that the plan keeps to it."""

import pytest
import tiny_models as tiny

from hetero_tvm import compiler
from hetero_tvm.config import BuildConfig
from hetero_tvm.errors import BadInput


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
