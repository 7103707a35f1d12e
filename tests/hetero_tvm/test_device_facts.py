"""What a device says of itself, by a real shell in a made-up root."""

import os

import pytest

from hetero_tvm import device_facts
from hetero_tvm.device_facts import read_facts
from hetero_tvm.errors import DeviceFailure
from hetero_tvm.transports.local import Local


@pytest.fixture
def device(tmp_path):
    return Local(tmp_path)


def test_this_machine(device):
    facts = read_facts(device)
    assert facts.system == "linux"
    assert facts.machine == {"arm64": "aarch64"}.get(os.uname().machine, os.uname().machine)
    assert facts.memory_bytes > 1 << 28 and facts.storage_free_bytes > 0
    assert facts.processors >= 1
    assert facts.lacks == ()
    assert facts.to_dict()["missing"] == facts.missing()


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """This machine's shell, with the files of a phone where the script looks for them."""
    files = {
        "/sys/devices/soc0/soc_id": "557\n",
        "/sys/class/kgsl/kgsl-3d0/gpu_model": "Adreno750v2\n",
        "/vendor/lib64/libOpenCL.so": "",
        "/vendor/lib64/libcdsprpc.so": "",
        "/sys/class/thermal/thermal_zone0/temp": "41500\n",
        "/sys/class/thermal/thermal_zone1/temp": "-273000\n",
        "/sys/class/thermal/thermal_zone2/temp": "38\n",
    }
    for name, text in files.items():
        path = tmp_path / name[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    script = device_facts._SCRIPT
    for folder in ("/sys/devices", "/sys/class", "/vendor/lib64"):
        script = script.replace(folder, f"{tmp_path}{folder}")
    monkeypatch.setattr(device_facts, "_SCRIPT", script)
    return tmp_path


def test_a_snapdragon(device, phone):
    facts = read_facts(device)
    assert (facts.soc_id, facts.htp_arch, facts.soc) == (557, 75, "SM8650")
    assert facts.gpu == "Adreno750v2"
    assert facts.temperature_c == 41.5
    assert facts.opencl == f"{phone}/vendor/lib64/libOpenCL.so"
    assert facts.missing() == []


def _tool(folder, name, output):
    """A program `name` that prints `output`, found before the system's."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
    (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_the_gpus_driver_on_android(device, phone, monkeypatch):
    gles = "GLES: Qualcomm, Adreno (TM) 750, OpenGL ES 3.2 V@0744.4 (GIT@1, I2) (Date:01/02/24)"
    path = _tool(phone / "bin", "dumpsys", f"Build configuration: x\n{gles}\nEGL: y")
    monkeypatch.setenv("PATH", path)
    facts = read_facts(device)
    assert facts.gpu == "Adreno750v2" and facts.gpu_driver.startswith("OpenGL ES 3.2 V@0744.4 (GIT")
    (phone / "sys/class/kgsl/kgsl-3d0/gpu_model").unlink()
    assert read_facts(device).gpu == "Adreno (TM) 750"


def test_the_gpus_driver_on_linux(device, phone, monkeypatch):
    (phone / "vendors").mkdir()
    (phone / "vendors" / "x.icd").write_text("libpocl.so.2.10.0\n")
    script = device_facts._SCRIPT.replace("/etc/OpenCL/vendors", f"{phone}/vendors")
    monkeypatch.setattr(device_facts, "_SCRIPT", script.replace("v clinfo", "v no-clinfo", 1))
    assert read_facts(device).gpu_driver == "libpocl.so.2.10.0"
    monkeypatch.setattr(device_facts, "_SCRIPT", script)
    path = _tool(
        phone / "bin", "clinfo", "[P/0]  CL_DEVICE_NAME  x\n[P/0]  CL_DRIVER_VERSION  24.13"
    )
    monkeypatch.setenv("PATH", path)
    assert read_facts(device).gpu_driver == "24.13"


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("vendor/lib64/libOpenCL.so", "no OpenCL: install the GPU's driver"),
        ("vendor/lib64/libcdsprpc.so", "no libcdsprpc.so, the NPU's driver library"),
    ],
)
def test_what_is_missing_is_named_with_the_next_step(device, phone, monkeypatch, gone, words):
    (phone / gone).unlink()
    script = device_facts._SCRIPT.replace("/usr/lib", "/nowhere").replace("/usr/local", "/nowhere")
    monkeypatch.setattr(device_facts, "_SCRIPT", script)
    assert any(words in line for line in read_facts(device).missing())


def test_an_unknown_soc(device, phone):
    (phone / "sys/devices/soc0/soc_id").write_text("99999\n")
    assert any("SoC 99999 is of no target here" in line for line in read_facts(device).missing())


def test_no_posix_shell(device, monkeypatch):
    monkeypatch.setattr(device, "argv", lambda command: ["sh", "-c", "echo 'C:\\>'"])
    with pytest.raises(DeviceFailure, match="no POSIX shell answers"):
        read_facts(device)
