"""The program that a deployment leaves on a device: numbers, files and what it refuses."""

import dataclasses
import hashlib
import json
import os
import re
import subprocess

import numpy as np
import pytest
import tvm
import tvm_ffi

from hetero_tvm import bundle, reference, runtime


@pytest.fixture(scope="module")
def program():
    folders = [f"{module.__path__[0]}/lib" for module in (tvm, tvm_ffi)]
    folders.append(str(runtime.LIBRARY.parent))
    paths = runtime.library_paths()
    settings = [
        word
        for key, path in paths.items()
        if path is not None
        for word in ("--set", f"{key}={path}")
    ]

    def call(*words, settings=tuple(settings)):
        return subprocess.run(
            [str(runtime.LIBRARY.with_name("hetero_device")), *settings, *map(str, words)],
            capture_output=True,
            text=True,
            env={**os.environ, "LD_LIBRARY_PATH": ":".join(folders)},
        )

    return call


@pytest.fixture(scope="module")
def given(deployed_here, tmp_path_factory):
    """Files with the model's inputs, and what must come out."""
    manifest = bundle.read_manifest(deployed_here.artefact)
    arrays = reference.inputs(manifest.reference, manifest.ranges)
    path = tmp_path_factory.mktemp("given") / "x.npy"
    np.save(path, arrays["x"])
    return path, reference.compute(deployed_here.model, arrays)["y"]


def test_runs_files(program, deployed_here, given, tmp_path):
    path, wanted = given
    done = program("run", deployed_here.artefact, "--input", path, "--save", tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "output_0.npy"), wanted, rtol=1e-4, atol=1e-5)


def test_permuted_outputs_are_written_in_their_shape(program, deployed_here, given, tmp_path):
    """As a product that is cut by columns leaves them: its memory is [16, 4], its shape [4, 16]."""
    manifest = bundle.read_manifest(deployed_here.artefact)
    (output,) = manifest.outputs
    copy = tmp_path / "copy.so"
    copy.write_bytes(deployed_here.artefact.read_bytes()[: manifest.library_bytes])
    turned = dataclasses.replace(output, shape=output.shape[::-1])
    bundle.append_manifest(
        copy, dataclasses.replace(manifest, outputs=(turned,), output_axes=((1, 0),))
    )
    path, wanted = given
    done = program("run", copy, "--input", path, "--save", tmp_path, "--repeat", "0")
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "output_0.npy"), wanted.T, rtol=1e-4, atol=1e-5)


def test_devices(program):
    found = json.loads(program("devices").stdout)
    assert found and {"name", "platform", "half"} <= set(found[0])


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 1 << 20, (1 << 20) + 7])
def test_hashes_of_any_size(program, tmp_path, size):
    """By the checksum of the code of a made-up artefact."""
    code = np.random.default_rng(size).bytes(size)
    (tmp_path / "a.so").write_bytes(code)
    checked = {"format_version": bundle.FORMAT_VERSION}
    checked["library_sha256"] = hashlib.sha256(code).hexdigest()
    text = json.dumps(checked).encode()
    with (tmp_path / "a.so").open("ab") as file:
        file.write(
            text + bundle._FOOTER.pack(hashlib.sha256(text).digest(), len(text), bundle._MAGIC)
        )
    done = program("run", tmp_path / "a.so")
    # What is looked at after the checksums.
    assert done.returncode == 2 and "a.so: no 'os' in its description" in done.stderr


@pytest.mark.parametrize(
    ("array", "words"),
    [
        pytest.param(np.zeros((4, 32), np.float64), "holds .*<f8", id="dtype"),
        pytest.param(np.zeros((4, 33), np.float32), r"holds .*\(4, 33\)", id="shape"),
        pytest.param(np.zeros((32, 4), np.float32).T, "holds .*True", id="order"),
    ],
)
def test_inputs_that_do_not_fit(program, deployed_here, tmp_path, array, words):
    np.save(tmp_path / "x.npy", array)
    done = program("run", deployed_here.artefact, "--input", tmp_path / "x.npy")
    assert done.returncode == 2 and re.search(words, done.stderr), done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "say what to do"),
        (("dance",), 2, "unknown dance"),
        (("run",), 2, "run ARTEFACT"),
        (("run", "none.so"), 2, "none.so: cannot be opened"),
        (("--set", "x"), 2, "write KEY=VALUE"),
        (("--set", "x=y", "devices"), 2, "unknown setting 'x'"),
        (("--load", "/none.so", "devices"), 3, "cannot load /none.so"),
    ],
)
def test_what_it_does_not_understand(program, words, code, said):
    done = program(*words, settings=())
    assert done.returncode == code and said in done.stderr


def test_a_cut_file_and_a_missing_input(program, deployed_here, given, tmp_path):
    (tmp_path / "x.npy").write_bytes(given[0].read_bytes()[:-4])
    done = program("run", deployed_here.artefact, "--input", tmp_path / "x.npy")
    assert done.returncode == 2 and "cut short" in done.stderr
    done = program("run", deployed_here.artefact)
    assert done.returncode == 2 and "0 inputs given, the model takes 1" in done.stderr
