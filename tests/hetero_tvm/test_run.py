"""The verb `run`: inputs from files and from seeds, comparison, exit codes."""

import dataclasses
import re

import numpy as np
import onnx
import pytest
import tiny_models as tiny

import hetero_tvm
from hetero_tvm import bundle, run
from hetero_tvm.errors import BadInput, WrongTensors
from hetero_tvm.lengths import LengthRules
from hetero_tvm.output_error import FLOAT16, FLOAT32


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    path = tiny.mlp(folder / "mlp.onnx")
    hetero_tvm.build(path, target="host", output=folder / "mlp.so")
    return folder / "mlp.so", path


def test_compare_holds(hetero, files):
    artefact, model = files
    done = hetero("run", artefact, "--compare", model, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["held"] is True
    (output,) = done.json["outputs"]
    assert (output["name"], output["shape"]) == ("y", [4, 16])
    assert output["relative_error"] < 1e-5
    assert output["cosine"] > 0.99999
    assert done.json["run_ms"]["median"] > 0


def test_wrong_numbers_exit_1(hetero, files, tmp_path):
    """The reference is another model: same shapes, other weights."""
    artefact, _ = files
    other = tiny.mlp(tmp_path / "other.onnx", seed=9)
    done = hetero("run", artefact, "--compare", other, "--json")
    assert done.returncode == 1
    assert done.json["held"] is False
    done = hetero("run", artefact, "--compare", other)
    assert done.returncode == 1
    assert "did NOT hold" in done.stdout


def test_another_models_inputs_are_bad_input(hetero, files, tmp_path):
    artefact, _ = files
    model = onnx.load(tiny.mlp(tmp_path / "other.onnx"))
    model.graph.input[0].name = "q"
    model.graph.node[0].input[0] = "q"
    onnx.save(model, tmp_path / "other.onnx")
    done = hetero("run", artefact, "--compare", tmp_path / "other.onnx")
    assert done.returncode == 2
    assert "ONNX Runtime cannot run it" in done.stderr


def test_inputs_from_files_and_outputs_to_file(hetero, files, tmp_path):
    artefact, model = files
    x = np.random.default_rng(5).standard_normal((4, 32), np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "all.npz", x=x)
    wanted = tiny.run_with_onnxruntime(model, x=x)["y"]
    for flag in (f"x={tmp_path / 'x.npy'}", str(tmp_path / "all.npz")):
        done = hetero("run", artefact, "--inputs", flag, "--save", tmp_path / "out.npz")
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "out.npz") as saved:
            np.testing.assert_allclose(saved["y"], wanted, rtol=1e-5, atol=1e-5)


def test_seeds_differ_and_repeat(files):
    manifest = bundle.read_manifest(files[0])
    first = run.complete_inputs({}, manifest, 0)["x"]
    assert first.shape == (4, 32)
    np.testing.assert_array_equal(first, run.complete_inputs({}, manifest, 0)["x"])
    assert not np.array_equal(first, run.complete_inputs({}, manifest, 1)["x"])


def test_given_inputs_win(files):
    manifest = bundle.read_manifest(files[0])
    x = np.full((4, 32), 7, np.float32)
    assert run.complete_inputs({"x": x}, manifest, 0)["x"] is x


def of_lengths(files):
    """The manifest as if it had been built with --length."""
    manifest = bundle.read_manifest(files[0])
    variants = tuple(
        bundle.Variant(
            length=length,
            function=f"main_{length}",
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            output_axes=(None,),
            plan={"predicted_us": 1.0},
            npu_regions=0,
        )
        for length in (4, 9)
    )
    rules = LengthRules(
        input_axes={"x": (0,)},
        output_axes={"y": (0,)},
        fill={"x": 0.0},
        padding=True,
        padding_words="",
        chunking=False,
        chunking_words="",
    )
    return dataclasses.replace(manifest, variants=variants, lengths=rules)


def test_random_inputs_have_the_length_that_is_asked_for(files):
    manifest = of_lengths(files)
    assert run.complete_inputs({}, manifest, 0)["x"].shape == (9, 32)
    assert run.complete_inputs({}, manifest, 0, 6)["x"].shape == (6, 32)
    x = np.zeros((5, 32), np.float32)
    assert run.complete_inputs({"x": x}, manifest, 0, 5)["x"] is x
    with pytest.raises(BadInput, match="--length 6: the given inputs are 5 long"):
        run.complete_inputs({"x": x}, manifest, 0, 6)
    with pytest.raises(BadInput, match="--length 0: at least 1"):
        run.complete_inputs({}, manifest, 0, 0)
    with pytest.raises(BadInput, match="--length 6: the artefact was built without --length"):
        run.complete_inputs({}, bundle.read_manifest(files[0]), 0, 6)


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"PK\x03\x04broken"])
def test_a_file_of_something_else_is_not_to_be_unpickled(tmp_path, content):
    file = tmp_path / "x.npy"
    file.write_bytes(content)
    with pytest.raises(WrongTensors, match=r"not a whole \.npy or \.npz") as refused:
        run.read_inputs([f"x={file}"])
    assert "pickle" not in str(refused.value)


def test_npy_needs_a_name(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(BadInput, match="say which input it is, as in NAME="):
        run.read_inputs([str(tmp_path / "x.npy")])


def test_tolerance_follows_the_arithmetic(files):
    manifest = bundle.read_manifest(files[0])
    assert run.default_tolerance(manifest) == FLOAT32
    assert run.default_tolerance(dataclasses.replace(manifest, dtype="float16")) == FLOAT16
    on_htp = dataclasses.replace(manifest, npu_provider="qnn", npu_regions=1)
    assert run.default_tolerance(on_htp) == FLOAT16
    gpu_only = dataclasses.replace(manifest, npu_provider="qnn", npu_regions=0)
    assert run.default_tolerance(gpu_only) == FLOAT32


def test_save_folder_must_exist(hetero, files, tmp_path):
    done = hetero("run", files[0], "--save", tmp_path / "no" / "out.npz")
    assert done.returncode == 2
    assert "does not exist" in done.stderr


def test_half_storage_says_what_the_arithmetic_is(files):
    manifest = dataclasses.replace(bundle.read_manifest(files[0]), dtype="float16")
    device = {"selected": True, "name": "G", "platform": "P", "memory": "svm", "half": False}
    words = run._gpu_words([device], manifest)
    assert "float16 storage, float32 arithmetic" in words
    assert "lacks cl_khr_fp16" in words


def test_says_how_memory_is_shared_and_why_not_better(hetero, files):
    done = hetero("run", files[0], "--repeat", 0)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^memory   \w+ \((nothing is better|no svm: .+)\)$", done.stdout, re.MULTILINE
    )


def test_a_model_with_other_outputs_is_bad_input(hetero, files, tmp_path):
    model = onnx.load(tiny.mlp(tmp_path / "other.onnx"))
    model.graph.output[0].name = "q"
    model.graph.node[-1].output[0] = "q"
    onnx.save(model, tmp_path / "other.onnx")
    done = hetero("run", files[0], "--compare", tmp_path / "other.onnx")
    assert done.returncode == 2
    assert "compare with the model it was built from" in done.stderr


def test_save_never_overwrites_what_is_read(hetero, files):
    artefact, _ = files
    before = artefact.read_bytes()
    done = hetero("run", artefact, "--save", artefact)
    assert done.returncode == 2
    assert artefact.read_bytes() == before
