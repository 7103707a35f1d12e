import base64
import copy
import ctypes
import dataclasses
import hashlib
import json
import logging
import shutil
import subprocess

import numpy as np
import pytest
import tuned_artefact

import hetero_tvm
from hetero_tvm import bundle, first_load, runtime
from hetero_tvm.bundle import read_manifest
from hetero_tvm.errors import RunFailed, TunedKernelWrong
from hetero_tvm.first_load import Here, check_kernels


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


def _expecting(proof, value):
    """The proof, the kernel's results on random values all `value`."""
    changed = copy.deepcopy(proof)
    for wanted in changed["runs"][0]["wanted"]:
        size = len(base64.b64decode(wanted["values"])) // 4
        wanted["values"] = base64.b64encode(np.full(size, value, np.float32)).decode()
    return changed


def test_a_wrong_kernel_is_named_and_remembered(built, monkeypatch):
    _, artefact, _ = built
    manifest = read_manifest(artefact)
    (tuned,) = [kernel for kernel in manifest.kernels if kernel["schedule"] == "tuned"]
    changed, here = _as_of(manifest, proof=_expecting(tuned["proof"], 0.5))
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


def test_a_kernel_that_nothing_is_known_of_is_told(built, cache, monkeypatch, caplog):
    """Artefacts of before say nothing of what a kernel gives."""
    _, artefact, _ = built
    manifest, here = _as_of(read_manifest(artefact), proof=None)
    monkeypatch.setattr(first_load.subprocess, "run", _no_process)
    with caplog.at_level(logging.WARNING):
        check_kernels(artefact, manifest, here)
    assert "1 tuned kernels were not proven on" in caplog.text and not cache.exists()


def _by_the_c_api(artefact, folder, **changes):
    """How the C API loads the artefact, its tuned kernel proven with an older driver."""
    manifest, here = _as_of(read_manifest(artefact), **changes)
    (tuned,) = manifest.kernels
    path = folder / artefact.name
    shutil.copy(artefact, path)
    with path.open("r+b") as file:
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
    return library, path, tuned, here


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


def test_the_c_api_checks_a_new_driver_once(built, cache, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HETERO_UNPROVEN_KERNELS", "refuse")  # what was checked is proven
    library, artefact, tuned, here = _by_the_c_api(built[1], tmp_path)
    assert _load(library, artefact) == (0, "")
    told = capfd.readouterr().err
    assert f"1 tuned kernels are checked on {here.device} with driver {here.driver}" in told
    assert json.loads(first_load._file(tuned, here).read_text()) == {
        **{"kernel": tuned["function"], "reason": ""},
        **dataclasses.asdict(here),
    }
    assert _load(library, artefact) == (0, "")
    assert capfd.readouterr().err == ""
    assert {file.suffix for file in cache.iterdir()} == {".json", ""}  # "": the lock


def test_the_c_api_checks_at_every_load_where_it_cannot_write(built, tmp_path, monkeypatch, capfd):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HETERO_CACHE_DIR", str(tmp_path / "file"))
    library, artefact, _, _ = _by_the_c_api(built[1], tmp_path)
    assert [_load(library, artefact)[0] for _ in range(2)] == [0, 0]
    assert capfd.readouterr().err.count("are checked on") == 2


def test_the_c_api_names_a_wrong_kernel_and_remembers_it(built, tmp_path, capfd):
    (tuned,) = [one for one in read_manifest(built[1]).kernels if one["schedule"] == "tuned"]
    wrong = _expecting(tuned["proof"], 0.5)
    library, artefact, _, here = _by_the_c_api(built[1], tmp_path, proof=wrong)
    for told in (1, 0):
        status, said = _load(library, artefact)
        assert status != 0 and f"{tuned['function']} fails on {here.device}" in said
        assert "(wrong on random values: relative error" in said
        assert capfd.readouterr().err.count("are checked on") == told


def test_a_process_that_a_kernel_ended_in_leaves_a_mark(built, tmp_path, monkeypatch, capfd):
    """The C API refuses the kernel; Python, which has another process to lose, tries it."""
    library, artefact, tuned, here = _by_the_c_api(built[1], tmp_path)
    first_load._remember(tuned, here, first_load._ENDED)
    status, said = _load(library, artefact)
    file = first_load._file(tuned, here)
    assert status != 0 and f"({first_load._ENDED}; remove {file} to try it again)" in said
    check_kernels(artefact, read_manifest(artefact), here)
    assert _load(library, artefact) == (0, "")


def test_a_kernel_that_cannot_be_called_is_wrong(built, tmp_path):
    (tuned,) = [one for one in read_manifest(built[1]).kernels if one["schedule"] == "tuned"]
    proof = copy.deepcopy(tuned["proof"])
    proof["parameters"].append({"dtype": "float32", "shape": [1]})
    library, artefact, changed, here = _by_the_c_api(built[1], tmp_path, proof=proof)
    status, said = _load(library, artefact)
    assert status != 0 and f"{tuned['function']} fails on" in said and "(error: " in said
    assert first_load._remembered(changed, here).startswith("error: ")


def test_the_c_api_tells_once_of_kernels_that_it_cannot_check(built, tmp_path, monkeypatch, capfd):
    library, artefact, _, here = _by_the_c_api(built[1], tmp_path, proof=None)
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
