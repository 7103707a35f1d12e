"""What a device lacks for an artefact: each by its name, with what to do."""

import dataclasses
from pathlib import Path

import pytest
from recorded_model import artefact

from hetero_tvm import bundle, device_fit, loader, runtime
from hetero_tvm.device_facts import read_facts
from hetero_tvm.errors import DeviceLacks, WrongMachine
from hetero_tvm.npu_targets import NpuTarget
from hetero_tvm.transports.local import Local

CHIP = {"npu_provider": "qnn", "soc": "SM8650", "htp_arch": 75, "soc_ids": (557,)}
PATH = Path("encoder.so")


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    found = read_facts(Local(tmp_path_factory.mktemp("facts")))
    return dataclasses.replace(found, opencl="/vendor/lib64/libOpenCL.so")


@pytest.fixture(scope="module")
def manifest():
    made = bundle.read_manifest(artefact())
    return dataclasses.replace(made, versions={**made.versions, "onnxruntime-qnn": "2.7.0"}, **CHIP)


def check(manifest, facts, **environment):
    device_fit.check_fits(PATH, manifest, facts)
    device_fit.check_opencl(facts, environment)
    device_fit.check_npu(PATH, device_fit.on_device(manifest, facts), facts)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        pytest.param(
            {"soc_id": 519, "soc": "SM8550", "htp_arch": 73},
            r"is for SM8650 \(HTP v75\), .* is SM8550 \(HTP v73\); build it with that",
            id="htp_architecture",
        ),
        pytest.param({"soc_id": 557, "htp_arch": 75}, "no libcdsprpc.so", id="no_npu_driver"),
        pytest.param({"soc_id": 557, "opencl": ""}, "no OpenCL: install the GPU", id="no_opencl"),
        pytest.param({"lacks": ("head",)}, "no `head`: install", id="tools"),
    ],
)
def test_what_a_device_lacks(facts, manifest, device, words):
    with pytest.raises(DeviceLacks, match=words):
        check(manifest, dataclasses.replace(facts, **device))


def test_no_snapdragon(facts, manifest):
    board = dataclasses.replace(facts, machine="aarch64")
    arm = dataclasses.replace(manifest, host="aarch64")
    with pytest.raises(DeviceLacks, match=r"no NPU of Qualcomm's .* behind --allow-fallback"):
        check(arm, board)
    check(dataclasses.replace(arm, npu_provider="cpu"), board)


def test_one_of_several_targets(facts, manifest):
    gen_2 = NpuTarget(name="gen-2", soc="SM8550", htp_arch=73, soc_ids=(519,))
    gen_3 = NpuTarget(name="gen-3", soc="SM8650", htp_arch=75, soc_ids=(557,))
    both = dataclasses.replace(manifest, targets=(gen_3, gen_2))
    ready = dataclasses.replace(facts, fastrpc="/vendor/libcdsprpc.so")
    there = dataclasses.replace(ready, soc_id=519, soc="SM8550", htp_arch=73)
    assert device_fit.on_device(both, there).htp_arch == 73
    check(both, there)
    other = dataclasses.replace(ready, soc_id=618, soc="SM8750", htp_arch=79)
    words = r"is for SM8650 \(HTP v75\), SM8550 \(HTP v73\), .* is SM8750 \(HTP v79\); build it"
    with pytest.raises(DeviceLacks, match=words):
        check(both, other)


def test_another_processor(facts, manifest):
    with pytest.raises(WrongMachine, match="is a riscv64; build it"):
        device_fit.check_fits(PATH, manifest, dataclasses.replace(facts, machine="riscv64"))


def test_an_opencl_library_that_is_named_is_enough(facts, manifest):
    without = dataclasses.replace(facts, opencl="", soc_id=557, fastrpc="/vendor/libcdsprpc.so")
    device_fit.check_opencl(without, {"HETERO_OPENCL_LIB": "/odd/libOpenCL.so"})


def test_libraries_of_another_qnn_version(manifest, monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "package_version", lambda _name: "2.6.1")
    words = r"compiled with onnxruntime-qnn 2.7.0, 2.6.1 is installed; rebuild it, or pip install"
    with pytest.raises(DeviceLacks, match=words) as error:
        device_fit.check_qnn(PATH, manifest)
    assert error.value.exit_code == 4
    device_fit.check_qnn(PATH, dataclasses.replace(manifest, npu_provider="cpu"))
    monkeypatch.setattr(runtime, "package_version", manifest.versions.get)
    device_fit.check_qnn(PATH, manifest)
    monkeypatch.undo()
    # The loader asks too, before it loads anything.
    whole = bundle.read_manifest(artefact())
    path = tmp_path / "chip.so"
    path.write_bytes(artefact().read_bytes()[: whole.library_bytes])
    versions = {**whole.versions, "onnxruntime-qnn": "0.1"}
    bundle.append_manifest(path, dataclasses.replace(whole, versions=versions, **CHIP))
    if runtime.package_version("onnxruntime-qnn") is not None:
        with pytest.raises(DeviceLacks, match=r"onnxruntime-qnn 0\.1"):
            loader.load(path)
