"""Every check, on a machine that is well and on machines that are not."""

import dataclasses

import pytest

from hetero_tvm import device_check, doctor_checks, runtime
from hetero_tvm.device_check import Found
from hetero_tvm.doctor_checks import DEVICE, ENVIRONMENT
from hetero_tvm.errors import EnvironmentProblem

GOOD = Found(held=True, relative_error=1e-7, seconds=1.0, device="a GPU", memory="svm")
CL = {
    "index": 0,
    "name": "a GPU",
    "platform": "a platform",
    "driver_version": "7",
    "half": True,
    "memory": "svm",
    "memory_why": "no import: it lacks it",
}


def test_this_machine_is_well():
    for check in (
        doctor_checks.python,
        doctor_checks.packages,
        doctor_checks.library,
        doctor_checks.compiler,
        doctor_checks.disk,
    ):
        for result in check():
            assert result.status != "FAIL", result
            assert bool(result.fix) == (result.status != "ok")


def test_an_old_python(monkeypatch):
    monkeypatch.setattr(doctor_checks, "_OLDEST_PYTHON", (9, 9))
    (result,) = doctor_checks.python()
    assert result.status == "FAIL" and "install" in result.fix


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"apache-tvm": "0.26.0"}, "apache-tvm 0.26.0, not ==0.27.0.post1"),
        ({"apache-tvm-ffi": "0.1.15"}, "apache-tvm-ffi 0.1.15, not =="),
        ({"onnx": None}, "onnx>=1.21 is missing"),
    ],
)
def test_packages_of_other_versions(monkeypatch, versions, words):
    true = doctor_checks._version
    monkeypatch.setattr(
        doctor_checks, "_version", lambda name: versions[name] if name in versions else true(name)
    )
    result, *_ = doctor_checks.packages()
    assert result.status == "FAIL" and words in result.words
    assert result.fix.startswith("pip install ") and "apache-tvm==" in result.fix


def test_an_extra_that_is_not_there_is_a_warning(monkeypatch):
    true = doctor_checks._version
    monkeypatch.setattr(
        doctor_checks, "_version", lambda name: None if "qnn" in name else true(name)
    )
    (result,) = (r for r in doctor_checks.packages() if r.name == "extra qnn")
    assert result.status == "warn" and "hetero-tvm[qnn]" in result.fix


def test_requirements_of_the_installed_package(monkeypatch, tmp_path):
    """As where there is no source tree."""
    monkeypatch.setattr(doctor_checks, "__file__", str(tmp_path / "hetero_tvm" / "x.py"))
    monkeypatch.setattr(
        doctor_checks.importlib.metadata,
        "requires",
        lambda _name: ["a==1", 'b>=2; extra == "qnn"', 'c; extra == "dev"'],
    )
    assert doctor_checks.requirements() == (["a==1"], {"qnn": ['b>=2; extra == "qnn"']})


def test_a_library_that_does_not_load(monkeypatch):
    def broken():
        raise EnvironmentProblem("it is missing")

    monkeypatch.setattr(runtime, "load", broken)
    (result,) = doctor_checks.library()
    assert (result.status, result.words) == ("FAIL", "it is missing") and "pip" in result.fix


@pytest.mark.parametrize("command", ["/no/such/compiler", "/bin/false", "/bin/true"])
def test_a_compiler_that_makes_nothing(monkeypatch, command):
    monkeypatch.setenv("CXX", command)
    (result,) = doctor_checks.compiler()
    assert result.status == "FAIL" and command in result.words and "g++" in result.fix


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HETERO_CACHE_DIR", str(tmp_path / "file" / "cache"))
    result, _ = doctor_checks.disk()
    assert result.status == "FAIL" and "HETERO_CACHE_DIR" in result.fix


def test_little_room(monkeypatch):
    monkeypatch.setattr(doctor_checks, "_LEAST_DISK_BYTES", 1 << 60)
    monkeypatch.setattr(doctor_checks, "_LEAST_MEMORY_BYTES", 1 << 60)
    assert [r.status for r in doctor_checks.disk()] == ["warn", "warn"]
    assert [r.status for r in doctor_checks.memory()] == ["warn"]


def test_a_wrong_kernel_and_what_a_device_lacks(monkeypatch):
    found = {"float32": GOOD, "float16": dataclasses.replace(GOOD, held=False, relative_error=0.3)}
    monkeypatch.setattr(device_check, "check", lambda wanted: found[wanted.dtype])
    monkeypatch.setattr(
        runtime, "opencl_devices", lambda: [CL, {**CL, "half": False, "memory": "buffer"}]
    )
    results = list(doctor_checks.opencl())
    assert [r.status for r in results] == ["ok", "FAIL", "ok", "warn", "warn"]
    assert "float16 product WRONG, off by 3.0e-01" in results[1].words
    assert results[1].exit_code == DEVICE and "HETERO_OPENCL_DEVICE" in results[1].fix
    assert "no half precision" in results[3].words
    assert "memory svm (no import: it lacks it)" in results[0].words
    assert "buffers are mapped: no import" in results[4].words


def test_no_opencl(monkeypatch):
    monkeypatch.setattr(runtime, "opencl_devices", list)
    (result,) = doctor_checks.opencl()
    assert (result.status, result.exit_code) == ("FAIL", ENVIRONMENT)
    assert "hetero-tvm[cpu-opencl]" in result.fix


def test_a_simulator_that_crashes(monkeypatch):
    crashed = Found(error="the process was ended by SIGSEGV: a driver crashed")
    monkeypatch.setattr(
        device_check, "check", lambda wanted: GOOD if wanted.target == "host" else crashed
    )
    monkeypatch.setattr(doctor_checks, "_version", lambda name: "2.7.0")
    stand_in, simulator = doctor_checks.npu()
    assert (stand_in.status, simulator.status) == ("ok", "FAIL")
    assert "SIGSEGV" in simulator.words and "hetero-tvm[qnn]" in simulator.fix
    monkeypatch.setattr(doctor_checks, "_version", lambda name: None)
    assert len(list(doctor_checks.npu())) == 1
