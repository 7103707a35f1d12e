"""The verb `debug`: what held, what did not, where it began, and what is refused."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tiny_models as tiny
from onnx import numpy_helper
from recorded_model import artefact

import hetero_tvm
from hetero_tvm import cli, debug, frontend, loader
from hetero_tvm.output_error import FLOAT32
from hetero_tvm.probe import Probed


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """An artefact for several lengths, and its model."""
    folder = tmp_path_factory.mktemp("debug")
    path = tiny.attention(folder / "a.onnx")
    flags = ["--input", "ids=1xL", "--input", "mask=1xL", "--length", "4,8", "-q"]
    assert cli.main(["build", str(path), "-t", "host", "-o", str(folder / "a.so"), *flags]) == 0
    return folder / "a.so", path


def split():
    return str(artefact()), str(artefact().with_name("model.onnx"))


def test_a_split_artefact_holds(capsys):
    path, model = split()
    assert cli.main(["debug", path, "--against", model, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["held"] and data["first_bad"] == {} and data["advice"] == []
    devices = {result["device"] for result in data["results"]}
    assert devices == {"gpu", "npu"}
    assert any(result["part"] for result in data["results"])
    assert data["compared"] > data["not_compared"]


def test_every_length_of_an_artefact(capsys, several):
    path, model = several
    for length in ("4", "8"):
        flags = ["debug", str(path), "--against", str(model), "--length", length, "-q"]
        assert cli.main(flags) == 0
    flags = ["debug", str(path), "--against", str(model), "--length", "3"]
    assert cli.main(flags) == 2
    assert "use a built --length" in capsys.readouterr().err


def test_the_wrong_layer_is_named(capsys, tmp_path, monkeypatch):
    """Against a model whose second weight is another one."""
    path = tiny.mlp(tmp_path / "m.onnx")
    hetero_tvm.build(path, target="host", output=tmp_path / "m.so", devices="gpu")
    changed = onnx.load(path)
    (weight,) = (w for w in changed.graph.initializer if w.name == "w1")
    array = numpy_helper.to_array(weight) * np.float32(1.01)
    weight.CopyFrom(numpy_helper.from_array(array, "w1"))
    onnx.save(changed, tmp_path / "other.onnx")
    model = loader.load(tmp_path / "m.so")
    inputs = {"x": np.random.default_rng(5).standard_normal((4, 32), np.float32)}
    with pytest.raises(hetero_tvm.errors.BadInput, match="is not the model"):
        debug.probe_model(model, tmp_path / "other.onnx", inputs, FLOAT32)
    true_import = frontend.import_model
    sha256 = model.manifest.model_sha256
    monkeypatch.setattr(
        frontend,
        "import_model",
        lambda *args, **more: dataclasses.replace(true_import(*args, **more), sha256=sha256),
    )
    found, _, _, _ = debug.probe_model(model, tmp_path / "other.onnx", inputs, FLOAT32)
    assert [(p.operator, p.held) for p in found][-1] == ("second", False)
    assert all(p.held for p in found[:-1]) and len(found) > 1
    assert found[-1].relative_error == pytest.approx(0.01, rel=0.05)
    flags = ["debug", str(tmp_path / "m.so"), "--against", str(tmp_path / "other.onnx")]
    assert cli.main(flags) == 1
    said = capsys.readouterr().out
    assert "FAILED" in said and "What to keep more exact:" in said
    assert "first on the GPU: call 0, second, off by" in said
    assert cli.main([*flags, "--tolerance", "0.1"]) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tolerance", "-1"], "--tolerance -1"),
        (["--seed", "-1"], "--seed -1: at least 0"),
    ],
)
def test_bad_input(capsys, flags, said):
    path, model = split()
    assert cli.main(["debug", path, "--against", model, *flags]) == 2
    assert said in capsys.readouterr().err


def test_another_model_is_refused(capsys, tmp_path):
    path, _ = split()
    other = tiny.mlp(tmp_path / "other.onnx")
    assert cli.main(["debug", path, "--against", str(other)]) == 2
    assert "error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dtype", "provider", "device", "said"),
    [
        ("float32", "qnn", "npu", "build with --off-npu a"),
        ("float16", "cpu", "gpu", "build with --dtype float32"),
        ("float32", "cpu", "gpu", "look for a wrong kernel, with --devices npu"),
    ],
)
def test_advice(dtype, provider, device, said):
    model = SimpleNamespace(manifest=SimpleNamespace(dtype=dtype, npu_provider=provider))
    probed = Probed(
        position=0,
        device=device,
        symbol="k",
        operator="a",
        op="relax.matmul",
        part=None,
        layout=None,
        relative_error=0.5,
        cosine=0.8,
        held=False,
        read_error=0.0,
        gain=100.0,
    )
    first, *_, last = debug._advice(model, [probed])
    assert f"matmul a on the {device.upper()} makes an error of 5.0e-01" in first
    assert said in last
    assert debug._advice(model, []) == []


@pytest.mark.nightly
def test_on_the_simulated_npu(capsys, tmp_path):
    """float16 inside, wherever the NPU works: held to float16's tolerance."""
    pytest.importorskip("onnxruntime_qnn")
    path = tiny.mlp(tmp_path / "m.onnx", rows=64)
    flags = ["-t", "snapdragon-8-gen-3", "-o", str(tmp_path / "m.so"), "--devices", "npu", "-q"]
    assert cli.main(["build", str(path), *flags]) == 0
    assert cli.main(["debug", str(tmp_path / "m.so"), "--against", str(path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {r["device"] for r in data["results"]} == {"npu"}
    assert max(r["relative_error"] for r in data["results"]) > 1e-6
