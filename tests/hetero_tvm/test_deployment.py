"""Deployments over a real ssh server to this machine: whole, again, interrupted, refused."""

import dataclasses
import re
import subprocess
from pathlib import Path

import device_fixture
import numpy as np
import onnx
import pytest
import tiny_models
from adb_server import adb_server
from onnx import numpy_helper
from ssh_server import ssh_server

import hetero_tvm
from hetero_tvm import bundle, deployment, signing, substitutes
from hetero_tvm.device_facts import read_facts
from hetero_tvm.device_store import DeviceStore
from hetero_tvm.errors import (
    AnotherModel,
    BadInput,
    DeviceFailure,
    DeviceLacks,
    NotDeployed,
    StorageFull,
)
from hetero_tvm.open_model import opened
from hetero_tvm.report_deployment import deployed_text
from hetero_tvm.transports.adb import Adb
from hetero_tvm.transports.local import Local
from hetero_tvm.transports.ssh import Ssh


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    return device_fixture.build_mlp(tmp_path_factory.mktemp("deployment"))


@pytest.fixture(scope="module")
def ssh(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device")
    with ssh_server(folder) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETERO_SSH", f"ssh -F {folder}/config")
        with Ssh("127.0.0.1", "tester", server.port) as transport:
            yield server, transport


@pytest.fixture(scope="module")
def deployed(artefact, ssh):
    return device_fixture.deploy(artefact, ssh[1], artefact.parent)


def test_every_part_is_tried_and_held(deployed):
    assert [part.part for part in deployed.parts] == ["cpu", "gpu", "npu", "model"]
    assert all(part.held for part in deployed.parts)
    assert 0 < deployed.pushed_bytes and deployed.footprint["hetero_device"] > 0


def test_what_is_left_there_without_qualcomms_libraries_is_small(deployed):
    assert sum(deployed.footprint.values()) < 40e6


def test_the_command_runs_there_alone(deployed, tmp_path):
    done = subprocess.run(
        [deployed.command, "--repeat", "2", "--save", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert "median of 2" in done.stdout and "y 4x16 float32" in done.stdout
    assert np.isfinite(np.load(tmp_path / "output_0.npy")).all()
    bad = subprocess.run([deployed.command, "--repeat", "x"], capture_output=True, text=True)
    assert (bad.returncode, bad.stderr) == (2, "hetero_device: error: --repeat x\n")


def test_again_pushes_nothing(deployed, artefact, ssh):
    again = device_fixture.deploy(artefact, ssh[1], artefact.parent)
    assert (again.pushed_bytes, again.command) == (0, deployed.command)


def test_another_weight_pushes_the_weight(tmp_path):
    device = Local(tmp_path / "device")
    artefact = device_fixture.build_mlp(tmp_path, width=65536)
    device_fixture.deploy(artefact, device, tmp_path)
    model = onnx.load(tmp_path / "mlp.onnx")
    (weight,) = (each for each in model.graph.initializer if each.name == "w0")
    other = np.random.default_rng().standard_normal((32, 65536), np.float32)
    weight.CopyFrom(numpy_helper.from_array(other, "w0"))
    onnx.save(model, tmp_path / "mlp.onnx")
    hetero_tvm.build(tmp_path / "mlp.onnx", target="host", output=artefact)
    done = device_fixture.deploy(artefact, device, tmp_path)
    assert all(part.held for part in done.parts)
    # Not the second weight, half as large: pieces of which a part changed (1 MiB each at most) and
    # the record of all pieces travel beside the first.
    assert other.nbytes < done.pushed_bytes < other.nbytes + 3e6 < artefact.stat().st_size


def test_an_interrupted_one_is_not_there_and_goes_on(artefact, ssh):
    server, transport = ssh
    root = f"{server.home}/other"
    server.cut_after(3_000_000)
    with pytest.raises(DeviceFailure, match="goes on where this one stopped"):
        device_fixture.deploy(artefact, transport, artefact.parent, root=root)
    server.cut_after(None)
    assert DeviceStore(transport, root).bundles() == []
    before = server.received
    done = device_fixture.deploy(artefact, transport, artefact.parent, root=root)
    assert done.parts[-1].held
    assert done.pushed_bytes < done.there_bytes - 2_000_000
    assert server.received - before < done.there_bytes
    DeviceStore(transport, root).remove("mlp")


def test_a_disk_that_fills_up_in_mid_push_leaves_nothing_and_the_same_call_mends_it(
    artefact, tmp_path, monkeypatch
):
    device = Local(tmp_path / "device")
    usual = device.argv

    def full(command):
        """What a shell says and leaves when there is room for a million bytes more."""
        if "libtvm_runtime" not in command or "cat >" not in command:
            return usual(command)
        (start,) = re.findall(r"cat (>>?\S+)", command)
        folder = command.partition(" && ")[0] if command.startswith("mkdir") else "true"
        words = "cat: write error: No space left on device"
        return usual(f"{folder} && head -c 1000000 {start}; echo '{words}' >&2; exit 1")

    monkeypatch.setattr(device, "argv", full)
    with pytest.raises(StorageFull, match=r"its storage is full\. Make room there, then run"):
        device_fixture.deploy(artefact, device, artefact.parent)
    assert DeviceStore(device).bundles() == []
    (left,) = (tmp_path / "device").glob("staging/*/libtvm_runtime*.part")
    assert left.stat().st_size == 1_000_000
    monkeypatch.setattr(device, "argv", usual)
    done = device_fixture.deploy(artefact, device, artefact.parent)
    assert all(part.held for part in done.parts)
    assert done.pushed_bytes < done.there_bytes - 1_000_000  # it went on, and pushed nothing twice


def test_over_adb(artefact, tmp_path, monkeypatch):
    with adb_server(tmp_path, monkeypatch), Adb() as transport:
        done = device_fixture.deploy(artefact, transport, artefact.parent)
        assert done.parts[-1].held
        assert (tmp_path / "hetero_tvm" / "bundles" / "mlp" / "run").is_file()
        DeviceStore(transport).remove("mlp")
    assert not (tmp_path / "hetero_tvm").exists()


def test_wrong_numbers_are_not_installed(artefact, tmp_path):
    manifest = bundle.read_manifest(artefact)
    wrong = tmp_path / "wrong.so"
    wrong.write_bytes(artefact.read_bytes()[: manifest.library_bytes])
    reference = {**manifest.reference, "seed": 1}  # other inputs than those of these outputs
    bundle.append_manifest(wrong, dataclasses.replace(manifest, reference=reference))
    device = Local(tmp_path / "device")
    with pytest.raises(DeviceFailure, match=r"nothing was installed; model: wrong numbers \(rel"):
        device_fixture.deploy(wrong, device, artefact.parent)
    assert DeviceStore(device).bundles() == []


def test_a_device_without_opencl_says_so_by_part(artefact, tmp_path):
    device = Local(tmp_path / "device")
    with pytest.raises(DeviceFailure, match=r"nothing was installed; cpu, gpu, npu, model: .*no-s"):
        device_fixture.deploy(
            artefact, device, artefact.parent, environment={"HETERO_OPENCL_LIB": "/no-such.so"}
        )
    assert DeviceStore(device).bundles() == []


def test_a_device_that_accepts_only_signed_artefacts(artefact, tmp_path):
    key = tmp_path / "key"
    public = signing.new_key(key)
    signed = tmp_path / "mlp.so"
    signed.write_bytes(artefact.read_bytes())
    signing.append_signature(signed, signing.load_key(key))
    device = Local(tmp_path / "device")
    store = DeviceStore(device)
    store.accept_only(public.read_text())
    with pytest.raises(BadInput, match="not signed by any among the keys in trusted_keys of loc"):
        device_fixture.deploy(artefact, device, artefact.parent)
    done = device_fixture.deploy(signed, device, artefact.parent)
    assert [part.held for part in done.parts] == [None, None, None, True]
    assert "accepts only signed artefacts" in done.parts[0].words
    done = device_fixture.deploy(signed, device, artefact.parent, sign=key)
    assert all(part.held for part in done.parts)
    subprocess.run([done.command, "--repeat", "0"], check=True, capture_output=True)
    # There its own program decides, whoever put the file there.
    (path,) = (tmp_path / "device").glob("store/*/mlp.so")
    for data, words in (
        (artefact.read_bytes(), "not signed, and only artefacts signed by a key"),
        (_resealed(signed, tmp_path), "its signature is not of this artefact"),
    ):
        path.write_bytes(data)
        refused = subprocess.run([done.command], capture_output=True, text=True)
        assert refused.returncode == 2 and words in refused.stderr, refused.stderr
    path.write_bytes(signed.read_bytes())
    signing.new_key(tmp_path / "other")
    store.accept_only((tmp_path / "other.pub").read_text())
    refused = subprocess.run([done.command], capture_output=True, text=True)
    assert refused.returncode == 2
    assert f"signed by {public.read_text().strip()}, which is not in" in refused.stderr


def _resealed(signed, folder):
    """`signed` with another byte of code, honest checksums, and the signature that it had."""
    manifest = bundle.read_manifest(signed)
    data = signed.read_bytes()
    copy = folder / "resealed.so"
    copy.write_bytes(bytes([data[0] ^ 1]) + data[1 : manifest.library_bytes])
    bundle.append_manifest(copy, manifest)
    return copy.read_bytes() + data[bundle.size_without_signature(signed) :]


def test_too_little_room_is_said_before_the_push(artefact, tmp_path, monkeypatch):
    device = Local(tmp_path / "device")
    monkeypatch.setattr(device, "free_bytes", lambda path: 1 << 20)
    with pytest.raises(DeviceFailure, match=r"to be pushed and 1 MB are free; make room"):
        device_fixture.deploy(artefact, device, artefact.parent)


def _for_a_chip(artefact, path):
    """A copy of `artefact` that says its NPU part is for a Snapdragon."""
    manifest = bundle.read_manifest(artefact)
    path.write_bytes(artefact.read_bytes()[: manifest.library_bytes])
    qnn = {"npu_provider": "qnn", "soc": "SM8650", "htp_arch": 75, "soc_ids": (557,)}
    bundle.append_manifest(path, dataclasses.replace(manifest, npu_regions=1, **qnn))
    return path


def test_a_fallback_takes_the_place_of_what_cannot_run_there(artefact, tmp_path, monkeypatch):
    device = Local(tmp_path / "device")
    monkeypatch.setattr(
        deployment,
        "read_facts",
        lambda *where: dataclasses.replace(
            read_facts(*where), soc_id=519, soc="SM8550", htp_arch=73, opencl="/vendor/libOpenCL.so"
        ),
    )
    monkeypatch.setattr(substitutes, "check_qnn", lambda *_: None)  # it was compiled with none
    wanted = _for_a_chip(artefact, tmp_path / "chip.so")
    with pytest.raises(DeviceLacks, match=r"for SM8650 \(HTP v75\), .* is SM8550 \(HTP v73\)"):
        device_fixture.deploy(wanted, device, artefact.parent)
    assert DeviceStore(device).bundles() == []
    done = device_fixture.deploy(wanted, device, artefact.parent, fallbacks=(artefact,))
    assert done.artefact == str(artefact) and all(part.held for part in done.parts)
    ((instead, why),) = done.instead_of
    assert instead == str(wanted) and "HTP v73" in why
    said = deployed_text(done, "local:x")
    assert f"FALLBACK: {artefact} is there in place of {wanted}: " in said
    with pytest.raises(NotDeployed, match=r"mlp.so was deployed in its place: run that one"):
        with opened(wanted, f"local:{tmp_path}/device"):
            pass
    with opened(artefact, f"local:{tmp_path}/device") as model:
        assert model.run({"x": np.zeros((4, 32), np.float32)})["y"].shape == (4, 16)


def test_what_the_artefact_carries_takes_the_place_of_its_npu(tmp_path, monkeypatch):
    """Compiled for two chips, deployed where a third one is said to be."""
    pytest.importorskip("onnxruntime_qnn")
    both = "snapdragon-8-gen-2,snapdragon-8-gen-3"
    model = tiny_models.mlp(tmp_path / "mlp.onnx")
    path = tmp_path / "mlp.so"
    hetero_tvm.build(model, target=both, output=path, devices="npu", with_fallback=True)
    third = {"soc_id": 618, "soc": "SM8750", "htp_arch": 79, "opencl": "/vendor/libOpenCL.so"}
    monkeypatch.setattr(
        deployment, "read_facts", lambda *where: dataclasses.replace(read_facts(*where), **third)
    )
    device = Local(tmp_path / "device")
    words = r"for SM8550 \(HTP v73\), SM8650 \(HTP v75\), .* is SM8750 \(HTP v79\); .* --allow-fal"
    with pytest.raises(DeviceLacks, match=words):
        device_fixture.deploy(path, device, tmp_path)
    done = device_fixture.deploy(path, device, tmp_path, use_substitutes=True)
    assert "is SM8750 (HTP v79)" in done.no_npu
    parts = {part.part: part for part in done.parts}
    assert parts["npu"].held is None and parts["npu"].words == "not tried: a fallback"
    assert parts["model"].held and "the NPU is not used" in parts["model"].words
    assert "FALLBACK: the CPU computes the NPU's part there: " in deployed_text(done, "local:x")


def test_what_the_artefact_carries_takes_the_place_of_opencl(tmp_path, monkeypatch):
    model = tiny_models.mlp(tmp_path / "mlp.onnx", free_rows=True)
    path = tmp_path / "mlp.so"
    sizes = {"inputs": {"x": ("L", 32)}, "length": [4, 8]}
    hetero_tvm.build(model, target="host", output=path, with_fallback=True, measure=False, **sizes)
    device = Local(tmp_path / "device")
    without = {"HETERO_OPENCL_LIB": "/no-such.so"}
    # A library that finds no device: only its program can tell, by the test of that part.
    with pytest.raises(DeviceFailure, match=r"cpu, gpu, npu, model: no Op.*no-s.*; or let its CPU"):
        device_fixture.deploy(path, device, tmp_path, environment=without)
    assert DeviceStore(device).bundles() == []
    done = device_fixture.deploy(path, device, tmp_path, environment=without, use_substitutes=True)
    assert done.no_opencl.startswith("its GPU failed: no OpenCL device: install a driver")
    assert [part.held for part in done.parts] == [None, None, None, True]
    # No library at all: known before anything travels.
    monkeypatch.setattr(device, "environment", dict)
    monkeypatch.setattr(
        deployment, "read_facts", lambda *where: dataclasses.replace(read_facts(*where), opencl="")
    )
    with pytest.raises(DeviceLacks, match=r"no OpenCL: install .*; or let its CPU compute the mod"):
        device_fixture.deploy(path, device, tmp_path, environment={})
    done = device_fixture.deploy(path, device, tmp_path, environment={}, use_substitutes=True)
    assert "no OpenCL: install" in done.no_opencl
    assert "FALLBACK: the CPU computes the whole model there: " in deployed_text(done, "local:x")
    # Never silently: alone, from here, and in what it says of itself.
    alone = subprocess.run([done.command, "--save", tmp_path], capture_output=True, text=True)
    assert alone.returncode == 0
    assert "ONNX Runtime computes the model on the CPU: local:" in alone.stderr
    x = np.random.default_rng().standard_normal((4, 32), np.float32)
    with opened(path, f"local:{tmp_path}/device") as there:
        got = there.run({"x": x})["y"]
        (told,) = there.fallbacks()
        assert "no OpenCL: install" in told
        fed = there.feed({"x": x})
        assert len(there.measure(fed, 3)[1]) == 3
        with pytest.raises(DeviceFailure, match="nothing in it to be recorded"):
            there.record(fed, 1)
    want = tiny_models.run_with_onnxruntime(model, x=x)["y"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_fallback_of_another_model_is_refused(artefact, tmp_path):
    manifest = bundle.read_manifest(artefact)
    other = tmp_path / "other.so"
    other.write_bytes(artefact.read_bytes()[: manifest.library_bytes])
    bundle.append_manifest(other, dataclasses.replace(manifest, model_sha256="0" * 64))
    with pytest.raises(AnotherModel, match=r"--allow-fallback .*other.so: is of mlp.onnx"):
        device_fixture.deploy(artefact, Local(tmp_path / "d"), artefact.parent, fallbacks=(other,))


def test_names():
    assert deployment.default_name(Path("a b/__model.v2.so")) == "model.v2"
    assert deployment.default_name(Path("_.so")).startswith("model_")
