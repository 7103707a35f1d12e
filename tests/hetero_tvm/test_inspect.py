"""The verb `inspect`: text, JSON, the gate and its exit code."""

import json

import onnx
import pytest
import tiny_models as tiny
from onnx import helper

from hetero_tvm import cli
from hetero_tvm.errors import BadInput
from hetero_tvm.inspect import read_requirement


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny.mlp(tmp_path_factory.mktemp("inspect") / "m.onnx"))


@pytest.fixture(scope="module")
def half_on_npu(tmp_path_factory):
    """Two products, of which one is of integers: the NPU declines it."""
    path = tmp_path_factory.mktemp("inspect") / "half.onnx"
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["a", "b"], ["c"], name="floats"),
            helper.make_node("MatMul", ["i", "j"], ["k"], name="integers"),
        ],
        "half",
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [8, 8]) for n in "ab"]
        + [helper.make_tensor_value_info(n, onnx.TensorProto.INT32, [8, 8]) for n in "ij"],
        [
            helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [8, 8]),
            helper.make_tensor_value_info("k", onnx.TensorProto.INT32, [8, 8]),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path
    )
    return str(path)


def test_text(capsys, model):
    assert cli.main(["inspect", model, "-t", "host"]) == 0
    said = capsys.readouterr().out
    assert "3,136 parameters, 12,288 MACs a run, 4 operators" in said
    assert "NPU takes 100.0% of the work" in said and "building will take about" in said


def test_refusals_are_said(capsys, half_on_npu):
    assert cli.main(["inspect", half_on_npu, "-t", "host", "-v"]) == 0
    said = capsys.readouterr().out
    assert "NPU takes 50.0% of the work, GPU 100.0%" in said
    assert "NPU declines matmul: " in said and "integers" in said


@pytest.mark.parametrize(
    ("required", "code"), [("npu=50%", 0), ("npu=0.51", 1), ("gpu=100%", 0), ("npu=100%", 1)]
)
def test_gate(capsys, half_on_npu, required, code):
    flags = ["inspect", half_on_npu, "-t", "host", "--require", required, "--json"]
    assert cli.main(flags) == code
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["held"] is (code == 0)
    assert data["share"] == {"npu": 0.5, "gpu": 1.0}
    assert ("npu takes 50.0%, required are" in captured.err) is (code == 1)


@pytest.mark.parametrize("text", ["npu", "npu=x", "cpu=50%", "npu=120%", "npu=-1", "=5%"])
def test_requirements_that_are_none(text):
    with pytest.raises(BadInput, match="as in npu=90%"):
        read_requirement(text)


def test_no_model(capsys, tmp_path):
    assert cli.main(["inspect", str(tmp_path / "none.onnx")]) == 2
    assert "no such file" in capsys.readouterr().err
