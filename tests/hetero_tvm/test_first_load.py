import ctypes
import dataclasses
import hashlib
import json
import logging
import shutil
import subprocess

import pytest
import tuned_artefact
import tuning_cases as cases

import hetero_tvm
from hetero_tvm import bundle, first_load, runtime
from hetero_tvm.bundle import read_manifest
from hetero_tvm.errors import RunFailed, TunedKernelWrong
from hetero_tvm.first_load import Here, check_kernels
from schedules.trials import hash_of, plain


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return tuned_artefact.write(tmp_path_factory.mktemp("tuned"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HETERO_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "checked"


def _as_of(manifest, **changes):
    """The manifest, its tuned kernel proven elsewhere."""
    (tuned,) = [kernel for kernel in manifest.kernels if kernel["schedule"] == "tuned"]
    tuned = {**tuned, "driver": "an older one", **changes}
    here = Here(device=tuned["device"], driver="a newer one")
    return dataclasses.replace(manifest, kernels=(tuned,)), here


def _no_process(*_args, **_more):
    raise AssertionError("a process was started")


def test_nothing_is_checked_where_it_was_proven(built, monkeypatch):
    _, artefact, result = built
    assert [use.tuned for use in result.kernels].count(True) == 1
    monkeypatch.setattr(first_load.subprocess, "run", _no_process)
    assert hetero_tvm.load(artefact).manifest.kernels[0]["schedule"] == "tuned"


def test_a_new_driver_is_checked_once(built, cache, monkeypatch, caplog):
    _, artefact, _ = built
    manifest, here = _as_of(read_manifest(artefact))
    with caplog.at_level(logging.WARNING):
        check_kernels(artefact, manifest, here)
    assert "1 tuned kernels are checked on" in caplog.text
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(first_load.subprocess, "run", _no_process)
    check_kernels(artefact, manifest, here)
    with pytest.raises(AssertionError, match="a process was started"):
        check_kernels(artefact, manifest, dataclasses.replace(here, driver="the newest"))


def test_a_wrong_kernel_is_named_and_remembered(built, monkeypatch):
    """The function that it is held against has one more ReLU than it."""
    _, artefact, _ = built
    manifest = read_manifest(artefact)
    (tuned,) = [kernel for kernel in manifest.kernels if kernel["schedule"] == "tuned"]
    text = first_load.unpacked(tuned["reference"]).script(show_meta=False)
    import tvm

    other = tvm.script.from_source(text.replace("T.float32(0.0)", "T.float32(0.5)"))
    changed, here = _as_of(manifest, reference=first_load.packed(plain(other)))
    for _ in range(2):
        with pytest.raises(TunedKernelWrong) as caught:
            check_kernels(artefact, changed, here)
        message = str(caught.value)
        assert tuned["function"] in message and "with driver a newer one (wrong on" in message
        assert "hetero-tvm build mlp.onnx --target host -o mlp.so, no --db" in message
        monkeypatch.setattr(first_load.subprocess, "run", _no_process)


def test_a_kernel_that_ends_the_process_costs_itself(built, monkeypatch):
    """Of three, the second crashes; the third is checked all the same."""
    _, artefact, _ = built
    answers = iter([('{"reason": ""}\n', -11), ('{"reason": ""}\n', 0)])

    def run(command, **_more):
        output, code = next(answers)
        return subprocess.CompletedProcess(command, code, output, "")

    monkeypatch.setattr(first_load.subprocess, "run", run)
    (kernel, _) = _as_of(read_manifest(artefact))
    three = [{**kernel.kernels[0], "function": name} for name in "abc"]
    found = {one["function"]: reason for one, reason in first_load._checked(artefact, three)}
    assert found == {"a": "", "b": "its process ended by signal 11", "c": ""}


def test_a_kernel_that_hangs(built, monkeypatch):
    _, artefact, _ = built
    manifest, here = _as_of(read_manifest(artefact))

    def run(command, timeout, **_more):
        raise subprocess.TimeoutExpired(command, timeout, output=b"")

    monkeypatch.setattr(first_load.subprocess, "run", run)
    with pytest.raises(TunedKernelWrong, match="no answer within 180 s"):
        check_kernels(artefact, manifest, here)


def test_a_check_that_cannot_run_is_not_the_kernels_fault(built, cache, monkeypatch):
    _, artefact, _ = built
    manifest, here = _as_of(read_manifest(artefact))

    def run(command, **_more):
        return subprocess.CompletedProcess(command, 1, "", "no OpenCL device\n")

    monkeypatch.setattr(first_load.subprocess, "run", run)
    with pytest.raises(RunFailed, match="could not be checked: no OpenCL device"):
        check_kernels(artefact, manifest, here)
    assert not cache.exists()


def _by_the_c_api(artefact, folder):
    """How the C API loads the artefact, its tuned kernel proven with an older driver."""
    manifest, here = _as_of(read_manifest(artefact))
    (tuned,) = manifest.kernels
    copy = folder / artefact.name
    shutil.copy(artefact, copy)
    with copy.open("r+b") as file:
        _, length, _ = bundle._FOOTER.unpack(_tail(file, bundle._FOOTER.size))
        text = _tail(file, bundle._FOOTER.size + length)[:length]
        raw = json.loads(text)
        raw["kernels"] = [tuned]
        text = json.dumps(raw).encode()
        file.seek(-bundle._FOOTER.size - length, 2)
        file.truncate()
        file.write(text)
        file.write(bundle._FOOTER.pack(hashlib.sha256(text).digest(), len(text), bundle._MAGIC))
    runtime.load()
    library = ctypes.CDLL(str(runtime.LIBRARY))
    library.hetero_last_error.restype = ctypes.c_char_p
    device = runtime.open_opencl()
    here = Here(device=str(device.device_name), driver=str(device.driver_version))
    return library, copy, tuned, here


def _tail(file, size):
    file.seek(-size, 2)
    return file.read()


def _load(library, artefact):
    model = ctypes.c_void_p()
    status = library.hetero_model_load(str(artefact).encode(), ctypes.byref(model))
    said = "" if status == 0 else library.hetero_last_error().decode()
    if status == 0:
        library.hetero_model_free(model)
    return status, said


def test_the_c_api_tells_once_of_kernels_that_nobody_checked(built, tmp_path, monkeypatch, capfd):
    library, artefact, _, here = _by_the_c_api(built[1], tmp_path)
    assert [_load(library, artefact)[0] for _ in range(2)] == [0, 0]
    told = capfd.readouterr().err
    assert told.count("1 tuned kernels, such as") == 1
    assert f"with driver an older one, not on {here.device} with {here.driver}" in told
    monkeypatch.setenv("HETERO_UNPROVEN_KERNELS", "refuse")
    status, said = _load(library, artefact)
    assert status != 0 and "HETERO_UNPROVEN_KERNELS=refuse" in said
    monkeypatch.setenv("HETERO_UNPROVEN_KERNELS", "yes")
    assert "give tell or refuse" in _load(library, artefact)[1]


@pytest.mark.parametrize("reason", ["", "wrong on ones"])
def test_the_c_api_knows_what_was_checked(built, tmp_path, capfd, reason):
    library, artefact, tuned, here = _by_the_c_api(built[1], tmp_path)
    first_load._remember(tuned, here, reason)
    status, said = _load(library, artefact)
    assert capfd.readouterr().err == ""
    if not reason:
        assert status == 0
        return
    assert status != 0
    assert f"{tuned['function']} fails on {here.device}" in said and f"({reason})" in said


def test_functions_travel_as_text():
    func = plain(cases.product())
    assert hash_of(first_load.unpacked(first_load.packed(func))) == hash_of(func)
