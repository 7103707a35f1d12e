"""Operators, work and refusals of a model, as its plan has them."""

import pytest
import tiny_models as tiny

from hetero_tvm.config import BuildConfig
from hetero_tvm.errors import BadInput
from hetero_tvm.inspection import inspect_model
from hetero_tvm.plan_report import explain
from hetero_tvm.progress import Progress


def inspected(path, target="host", **more):
    config = BuildConfig(model=path, target=target, output=None, check=False, **more)
    return inspect_model(config, Progress(quiet=True))


def test_a_perceptron(tmp_path):
    found = inspected(tiny.mlp(tmp_path / "m.onnx"))
    assert found.parameters == 32 * 64 + 64 + 64 * 16
    assert found.macs == 4 * (32 * 64 + 64 * 16)
    assert found.share("npu") == found.share("gpu") == 1
    assert [o.op for o in found.operators if o.macs] == ["relax.matmul"] * 2
    assert found.operators[0].shape == (4, 64) and found.operators[0].node == "first"
    assert sum(o.weight_bytes for o in found.operators) == 4 * found.parameters
    assert found.memory.weights == 4 * found.parameters


def test_refusals_are_those_of_the_plan(tmp_path):
    from hetero_tvm.frontend import parse_input_flag

    path = tiny.attention(tmp_path / "a.onnx")
    inputs = {s.name: s for s in map(parse_input_flag, ("ids=1x8", "mask=1x8"))}
    found = inspected(path, "snapdragon-8-gen-3", inputs=inputs)
    config = BuildConfig(
        model=path, target="snapdragon-8-gen-3", output=None, check=False, inputs=inputs
    )
    plan = explain(config, Progress(quiet=True)).plan
    assert {o.name: dict(o.declined) for o in found.operators} == {
        op.name: dict(op.declined) for op in plan.ops
    }
    assert any("npu" in o.declined for o in found.operators)
    assert found.share("npu") > 0.99  # what it declines multiplies nothing


def test_a_free_dimension_is_named(tmp_path):
    with pytest.raises(BadInput, match="x"):
        inspected(tiny.mlp(tmp_path / "m.onnx", free_rows=True))
