"""The Python function and the verb, on a small model."""

import importlib
import json

import numpy as np
import pytest
import tiny_models as tiny

import hetero_tvm
from hetero_tvm.errors import BadInput


def test_function_and_module_are_one():
    module = importlib.import_module("hetero_tvm.build")
    assert hetero_tvm.build is module
    assert callable(hetero_tvm.build)


def test_build_then_load(tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx")
    result = hetero_tvm.build(path, target="host", output=tmp_path / "mlp.so")
    assert result.path == tmp_path / "mlp.so"
    assert sum(result.plan.macs.values()) == 4 * 32 * 64 + 4 * 64 * 16
    x = np.random.default_rng(1).standard_normal((4, 32), np.float32)
    found = hetero_tvm.load(tmp_path / "mlp.so")(x=x)
    wanted = tiny.run_with_onnxruntime(path, x=x)
    # float32 sums of 64 terms in another order
    np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("devices", ["gpu", "npu"])
def test_one_device_alone(tmp_path, devices):
    path = tiny.mlp(tmp_path / "mlp.onnx")
    result = hetero_tvm.build(path, target="host", output=tmp_path / "m.so", devices=devices)
    assert result.plan.macs[devices] == sum(result.plan.macs.values())
    x = np.random.default_rng(2).standard_normal((4, 32), np.float32)
    found = hetero_tvm.load(tmp_path / "m.so")(x=x)
    wanted = tiny.run_with_onnxruntime(path, x=x)
    np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-5, atol=1e-5)


def test_float16_storage(tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx")
    hetero_tvm.build(path, target="host", output=tmp_path / "m.so", dtype="float16", devices="gpu")
    x = np.random.default_rng(3).standard_normal((4, 32), np.float32)
    found = hetero_tvm.load(tmp_path / "m.so")(x=x)
    wanted = tiny.run_with_onnxruntime(path, x=x)
    assert found["y"].dtype == np.float32  # the model's own type at its border
    # two roundings of weights and two of activations, each half a unit of 2**-10
    np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-2, atol=1e-2)
    assert np.abs(found["y"] - wanted["y"]).max() > 1e-6, "nothing was stored in float16"


def test_free_dimensions_by_shape(tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx", free_rows=True)
    hetero_tvm.build(path, target="host", inputs={"x": (7, 32)}, output=tmp_path / "m.so")
    model = hetero_tvm.load(tmp_path / "m.so")
    assert model.manifest.inputs[0].shape == (7, 32)


def test_wrong_words_are_bad_input(tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx")
    with pytest.raises(BadInput, match="dtype 'float8': one of float32, float16"):
        hetero_tvm.build(path, target="host", output=tmp_path / "m.so", dtype="float8")
    with pytest.raises(BadInput, match="devices 'dsp': one of"):
        hetero_tvm.build(path, target="host", output=tmp_path / "m.so", devices="dsp")


def test_plan_only_writes_nothing(hetero, tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx")
    done = hetero("build", path, "-t", "host", "--plan-only", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.json["output"] is None
    assert [op["op"] for op in done.json["placement"]["operators"]].count("relax.matmul") == 2
    assert [file.name for file in tmp_path.iterdir()] == ["mlp.onnx"]


def test_target_help_lists_every_target(hetero):
    done = hetero("build", "--target", "help")
    assert done.returncode == 0, done.stderr
    for name in ("host", "snapdragon-8-gen-3", "snapdragon-x-elite", "v75"):
        assert name in done.stdout
    done = hetero("build", "--target", "help", "--json")
    rows = {row["name"]: row for row in done.json["targets"]}
    assert rows["snapdragon-8-gen-3"]["aliases"] == ["snapdragon"]
    assert all(row["provenance"] for row in rows.values())


def test_alias_says_what_it_stands_for(hetero, tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx")
    done = hetero("build", path, "-t", "snapdragon", "--plan-only")
    assert done.returncode == 0, done.stderr
    assert "snapdragon stands for snapdragon-8-gen-3" in done.stderr


def test_dump_ir_writes_every_phase(hetero, tmp_path):
    from hetero_tvm.pipeline import PHASES

    path = tiny.mlp(tmp_path / "mlp.onnx")
    done = hetero(
        "build", path, "-t", "host", "-o", tmp_path / "m.so", "--dump-ir", tmp_path / "ir"
    )
    assert done.returncode == 0, done.stderr
    names = {file.name for file in (tmp_path / "ir").iterdir()}
    for index, phase in enumerate(PHASES):
        assert f"{index}_{phase.name}.py" in names
    json.loads(next((tmp_path / "ir").glob("*_place.json")).read_text())
