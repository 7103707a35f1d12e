"""Artefacts for several targets that carry what computes without NPU or OpenCL."""

import importlib.util

import numpy as np
import pytest
import tiny_models as tiny

import hetero_tvm
from hetero_tvm import bundle, fallback, runtime
from hetero_tvm.errors import (
    BadInput,
    DeviceLacks,
    WrongKindOfModel,
    WrongMachine,
)

needs_qnn = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None,
    reason="onnxruntime-qnn is not installed (pip install 'hetero-tvm[qnn]')",
)
TARGETS = ("snapdragon-8-gen-2", "snapdragon-8-gen-3", "snapdragon-8-elite")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.mlp(tmp_path_factory.mktemp("fallback") / "mlp.onnx")


@pytest.fixture(scope="module")
def chips(model):
    """For three chips, everything that their NPUs take on them."""
    path = model.with_name("chips.so")
    hetero_tvm.build(
        model, target=",".join(TARGETS), output=path, devices="npu", with_fallback=True
    )
    return path


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(3).standard_normal((4, 32), np.float32)


@pytest.fixture(scope="module")
def truth(model, x):
    return tiny.run_with_onnxruntime(model, x=x)["y"]


@pytest.fixture(autouse=True)
def as_it_was():
    """The runtime keeps what it was told for later loads."""
    yield
    runtime.configure_npu(target=None, unfit=None, allow_fallback=False)


@needs_qnn
@pytest.mark.parametrize("target", TARGETS)
def test_each_target_computes_on_its_simulator(chips, x, truth, target):
    loaded = hetero_tvm.load(chips, npu_target=target)
    assert loaded.manifest.target == target
    assert [one.name for one in loaded.manifest.targets] == list(TARGETS)
    # As the HTP computes: in float16, so never the same bits as ONNX Runtime.
    got = loaded(x)["y"]
    assert 0 < np.abs(got - truth).max() <= 1e-2 * np.abs(truth).max()


@needs_qnn
def test_a_device_that_is_none_of_them(chips, x, truth, monkeypatch, capfd):
    monkeypatch.setenv("HETERO_SOC_ID", "555")
    all_of_them = r"gen-2 \(SM8550, HTP v73\), .*elite \(SM8750, HTP v79\), this device is SoC 555"
    with pytest.raises(WrongMachine, match=all_of_them + ".*; or run it with --allow-fallback"):
        hetero_tvm.load(chips)
    runtime.reset_counters()
    before = len(runtime.fallbacks())
    loaded = hetero_tvm.load(chips, allow_fallback=True)
    for _ in range(2):
        np.testing.assert_allclose(loaded(x)["y"], truth, rtol=1e-4, atol=1e-5)
    (told,) = loaded.fallbacks()[before:]
    assert "the NPU is not used, ONNX Runtime computes its part on the CPU (npu_region_0" in told
    assert "SoC 555" in told
    assert capfd.readouterr().err.count(told) == 1
    assert runtime.counters()["npu_moved"] == loaded.manifest.npu_regions


@needs_qnn
def test_the_variable_allows_it_too(chips, x, truth, monkeypatch):
    monkeypatch.setenv("HETERO_SOC_ID", "555")
    monkeypatch.setenv("HETERO_ALLOW_FALLBACK", "1")
    np.testing.assert_allclose(hetero_tvm.load(chips)(x)["y"], truth, rtol=1e-4, atol=1e-5)


@needs_qnn
def test_libraries_of_another_version(chips, x, truth, monkeypatch):
    real = runtime.package_version

    def other(name):
        return "2.6.1" if name == "onnxruntime-qnn" else real(name)

    monkeypatch.setattr(runtime, "package_version", other)
    with pytest.raises(DeviceLacks, match=r"onnxruntime-qnn .*, 2\.6\.1 is installed.*--allow-f"):
        hetero_tvm.load(chips)
    loaded = hetero_tvm.load(chips, allow_fallback=True)
    np.testing.assert_allclose(loaded(x)["y"], truth, rtol=1e-4, atol=1e-5)
    assert "2.6.1 is installed" in loaded.fallbacks()[-1]


_SCRIPT = """
import sys
import numpy as np
import hetero_tvm
allowed = sys.argv[3] == "yes"
try:
    model = hetero_tvm.load(sys.argv[1], allow_fallback=allowed)
except hetero_tvm.errors.HeteroError as error:
    sys.exit(f"{type(error).__name__}: {error}")
np.save(sys.argv[2], model(np.load(sys.argv[2]))["y"])
print(model.fallbacks())
"""


def _elsewhere(artefact, x, tmp_path, allowed, **environment):
    """What the artefact gives in a process of its own; or how it ends."""
    import os
    import subprocess
    import sys

    np.save(tmp_path / "x.npy", x)
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(artefact), str(tmp_path / "x.npy"), allowed],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, np.load(tmp_path / "x.npy")


@needs_qnn
def test_without_qualcomms_libraries(chips, x, truth, tmp_path):
    missing = {"HETERO_QNN_LIB": "/no/libonnxruntime_providers_qnn.so"}
    done, _ = _elsewhere(chips, x, tmp_path, "no", **missing)
    assert "/no/libonnxruntime_providers_qnn.so" in done.stderr
    assert "--allow-fallback (HETERO_ALLOW_FALLBACK=1) has its NPU part computed" in done.stderr
    done, got = _elsewhere(chips, x, tmp_path, "yes", **missing)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(got, truth, rtol=1e-4, atol=1e-5)
    assert "/no/libonnxruntime_providers_qnn.so" in done.stdout


@pytest.fixture(scope="module")
def lengths(tmp_path_factory):
    """For this machine, for two lengths."""
    model = tiny.mlp(tmp_path_factory.mktemp("lengths") / "free.onnx", free_rows=True)
    path = model.with_suffix(".so")
    hetero_tvm.build(
        model,
        target="host",
        output=path,
        inputs={"x": ("L", 32)},
        length=[4, 8],
        with_fallback=True,
        measure=False,
    )
    return path


def test_without_opencl(lengths, x, tmp_path):
    nothing = {"HETERO_OPENCL_LIB": "/no/libOpenCL.so"}
    done, _ = _elsewhere(lengths, x, tmp_path, "no", **nothing)
    assert done.stderr.startswith("EnvironmentProblem: no OpenCL device: install a driver")
    assert "or run it on the CPU with --allow-fallback" in done.stderr
    done, got = _elsewhere(lengths, x, tmp_path, "yes", **nothing)
    assert done.returncode == 0, done.stderr
    want = tiny.run_with_onnxruntime(lengths.with_suffix(".onnx"), x=x)["y"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert "ONNX Runtime computes the model on the CPU: no OpenCL device" in done.stdout


def test_without_being_asked_nothing_is_carried(model, tmp_path):
    built = hetero_tvm.build(model, target="host", output=tmp_path / "m.so", measure=False)
    assert not built.manifest.fallback and built.manifest.targets == ()


def test_not_for_language_models(tmp_path):
    with pytest.raises(WrongKindOfModel, match="without a fallback: build one artefact for each"):
        hetero_tvm.build(tmp_path, target="host", output=tmp_path / "m.so", with_fallback=True)
    several = ",".join(TARGETS)
    with pytest.raises(WrongKindOfModel, match=r"built for one target, .* --allow-fallback B\.so"):
        hetero_tvm.build(tmp_path, target=several, output=tmp_path / "m.so")


def test_names():
    assert fallback.symbol_of("main_32") == "whole_main_32"
    with pytest.raises(BadInput, match="nothing in it to be recorded"):
        fallback.CpuMachine(None, lambda _: ()).set_instrument(None)


def test_a_manifest_for_one_of_its_targets(lengths):
    manifest = bundle.read_manifest(lengths)
    assert manifest.fallback
    assert bundle.Manifest.from_json(manifest.to_json()) == manifest
