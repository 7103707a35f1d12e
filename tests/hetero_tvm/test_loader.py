"""What the loader refuses before it loads any code, and what a loaded model checks."""

import dataclasses

import forced_plans
import numpy as np
import pytest
import tiny_models as tiny

import hetero_tvm
from hetero_tvm import bundle
from hetero_tvm.errors import BadInput, WrongMachine
from hetero_tvm.npu_targets import NpuTarget

ELITE = NpuTarget(name="snapdragon-8-elite", soc="SM8750", htp_arch=79, soc_ids=(618,))
GEN_3 = NpuTarget(name="snapdragon-8-gen-3", soc="SM8650", htp_arch=75, soc_ids=(557,))


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    path = tiny.mlp(folder / "mlp.onnx")
    hetero_tvm.build(path, target="host", output=folder / "mlp.so")
    return folder / "mlp.so"


@pytest.fixture
def rewritten(artefact, tmp_path):
    """A copy whose manifest says something else, with honest checksums."""

    def rewrite(**changes):
        manifest = bundle.read_manifest(artefact)
        copy = tmp_path / "copy.so"
        copy.write_bytes(artefact.read_bytes()[: manifest.library_bytes])
        bundle.append_manifest(copy, dataclasses.replace(manifest, **changes))
        return copy

    return rewrite


def test_names_kwargs_and_positions(artefact):
    model = hetero_tvm.load(artefact)
    x = np.ones((4, 32), np.float32)
    np.testing.assert_array_equal(model(x)["y"], model(x=x)["y"])
    np.testing.assert_array_equal(model(x)["y"], model.run({"x": x})["y"])


def test_takes_dlpack(artefact):
    class Foreign:
        """Another library's tensor: it speaks DLPack and is no array."""

        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **kwargs):
            return self.array.__dlpack__(**kwargs)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    model = hetero_tvm.load(artefact)
    x = np.random.default_rng(0).standard_normal((4, 32), np.float32)
    np.testing.assert_array_equal(model(x=Foreign(x))["y"], model(x=x)["y"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"missing x=4x32:float32"),
        ({"z": np.zeros((4, 32), np.float32)}, r"no input named z; missing x"),
        ({"x": np.zeros((4, 31), np.float32)}, r"shape \[4, 31\], the model takes \[4, 32\]"),
        ({"x": np.zeros((4, 32), np.float64)}, r"dtype float64, the model takes float32"),
    ],
)
def test_wrong_inputs(artefact, inputs, message):
    with pytest.raises(BadInput, match=message):
        hetero_tvm.load(artefact).run(inputs)


def test_too_many_positions(artefact):
    x = np.zeros((4, 32), np.float32)
    with pytest.raises(BadInput, match="2 inputs given, the model has 1"):
        hetero_tvm.load(artefact)(x, x)


def test_strided_input_is_taken_right(artefact):
    model = hetero_tvm.load(artefact)
    x = np.random.default_rng(0).standard_normal((32, 4), np.float32).T
    np.testing.assert_array_equal(model(x=x)["y"], model(x=x.copy())["y"])


def test_other_host_is_refused(rewritten):
    with pytest.raises(BadInput, match=r"host code is for linux on vax, this machine is .*--os"):
        hetero_tvm.load(rewritten(host="vax"))
    with pytest.raises(BadInput, match=r"host code is for windows on x86_64, this machine is"):
        hetero_tvm.load(rewritten(os="windows", host="x86_64"))


def test_other_tvm_is_refused(rewritten):
    with pytest.raises(BadInput, match=r"built with apache-tvm 0\.1, .* is installed; rebuild it"):
        hetero_tvm.load(rewritten(versions={"apache-tvm": "0.1"}))


def test_the_target_is_that_of_the_soc(rewritten, monkeypatch):
    path = rewritten(targets=(ELITE, GEN_3))
    monkeypatch.setenv("HETERO_SOC_ID", "519")
    words = (
        r"compiled for snapdragon-8-elite \(SM8750, HTP v79\), snapdragon-8-gen-3 \(SM8650, HTP "
        r"v75\), this device is SoC 519; build it with this device's --target$"
    )
    with pytest.raises(WrongMachine, match=words):
        hetero_tvm.load(path)
    monkeypatch.setenv("HETERO_SOC_ID", "557")
    manifest = hetero_tvm.load(path).manifest
    assert (manifest.target, manifest.soc, manifest.htp_arch) == (
        "snapdragon-8-gen-3",
        "SM8650",
        75,
    )
    monkeypatch.delenv("HETERO_SOC_ID")
    assert hetero_tvm.load(path).manifest.htp_arch == 79  # the first stands for a simulator's
    assert hetero_tvm.load(path, npu_target=GEN_3.name).manifest.htp_arch == 75
    with pytest.raises(BadInput, match="no target snapdragon-x in it; there are snapdragon-8-e"):
        hetero_tvm.load(path, npu_target="snapdragon-x")
    with pytest.raises(BadInput, match="has no NPU part that is compiled for a target"):
        hetero_tvm.load(rewritten(), npu_target=GEN_3.name)


@pytest.mark.parametrize("rows", [1, 5])
def test_columns_of_two_devices_are_seen_in_the_models_shape(tmp_path, rows):
    """The GEMM's columns are the NPU's first, then the GPU's: memory is [16, rows]."""
    path = tiny.mlp(tmp_path / "mlp.onnx", rows=rows)
    plan = forced_plans.by_operator({"matmul": (1, 4)})
    forced_plans.build(path, tmp_path / "mlp.so", plan)
    model = hetero_tvm.load(tmp_path / "mlp.so")
    assert model.manifest.output_axes == ((1, 0) if rows > 1 else None,)
    x = np.random.default_rng(0).standard_normal((rows, 32), np.float32)
    (want,) = tiny.run_with_onnxruntime(path, x=x).values()
    result = model.call(model.feed({"x": x}))
    got = model.fetch(result)["y"]
    assert got.shape == (rows, 16)
    assert got.flags.c_contiguous == (rows == 1)  # a view: nothing was moved
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_outputs_can_be_saved_and_compared_however_they_lie(tmp_path, hetero):
    path = tiny.mlp(tmp_path / "mlp.onnx", rows=5)
    plan = forced_plans.by_operator({"matmul": (1, 4)})
    forced_plans.build(path, tmp_path / "mlp.so", plan)
    saved = tmp_path / "out.npz"
    done = hetero("run", tmp_path / "mlp.so", "--compare", path, "--save", saved, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["held"] is True
    assert np.load(saved)["y"].shape == (5, 16)


def test_an_artefact_that_was_built_again_runs_its_new_code(tmp_path):
    x = np.random.default_rng().standard_normal((4, 32), np.float32)
    artefact, loaded = tmp_path / "model.so", []
    for seed in (1, 2, 1):
        path = tiny.mlp(tmp_path / f"{seed}.onnx", seed=seed)
        hetero_tvm.build(path, target="host", output=artefact, devices="gpu", check=False)
        loaded.append(hetero_tvm.load(artefact))
        want = tiny.run_with_onnxruntime(path, x=x)["y"]
        np.testing.assert_allclose(loaded[-1](x=x)["y"], want, rtol=1e-4, atol=1e-5)
    again = hetero_tvm.load(artefact)(x=x)["y"]
    np.testing.assert_array_equal(again, loaded[-1](x=x)["y"])
    assert np.abs(loaded[1](x=x)["y"] - again).max() > 0.1  # the old one still is what it was
