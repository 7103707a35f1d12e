"""The artefact's description: there and back, and every way of being damaged."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hetero_tvm import bundle
from hetero_tvm.bundle import (
    FORMAT_VERSION,
    Manifest,
    Variant,
    append_manifest,
    read_manifest,
    whole_file,
)
from hetero_tvm.errors import BadInput
from hetero_tvm.frontend.random_inputs import InputRange
from hetero_tvm.frontend.tensor_spec import TensorSpec
from hetero_tvm.lengths import LengthRules
from relay_passes.calls import Call, Result

MANIFEST = Manifest(
    target="host",
    soc="any",
    htp_arch=None,
    soc_ids=(557,),
    npu_provider="cpu",
    os="linux",
    host="x86_64",
    dtype="float32",
    model_name="tiny.onnx",
    model_sha256="0" * 64,
    inputs=(TensorSpec(name="x", dtype="float32", shape=(1, 3)),),
    outputs=(
        TensorSpec(name="y", dtype="int64", shape=()),
        TensorSpec(name="z", dtype="float32", shape=(2, 3)),
    ),
    output_axes=(None, (1, 0)),
    ranges=(InputRange(name="x", dtype="float32", shape=(1, 3), kind="choice", values=(1, 2)),),
    versions={"tvm": "0.27"},
    plan={"ops": []},
    npu_regions=0,
    calls={
        "main": (
            Call(
                symbol="matmul",
                device="gpu",
                operators=("y_gpu",),
                results=(Result(operator="y_gpu", shape=(2, 3)),),
                macs=12,
                bytes=96,
            ),
        )
    },
)
CODE = bytes(range(256)) * 37


@pytest.fixture
def artefact(tmp_path):
    path = tmp_path / "model.so"
    path.write_bytes(CODE)
    append_manifest(path, MANIFEST)
    return path


def test_round_trip(artefact):
    read = read_manifest(artefact)
    assert read.library_bytes == len(CODE)
    assert dataclasses.replace(read, library_bytes=0, library_sha256="") == MANIFEST


def test_round_trip_of_several_lengths(tmp_path):
    variant = Variant(
        length=3,
        function="main_3",
        inputs=MANIFEST.inputs,
        outputs=MANIFEST.outputs,
        output_axes=MANIFEST.output_axes,
        plan={"ops": [], "predicted_us": 1.0},
        npu_regions=1,
    )
    rules = LengthRules(
        input_axes={"x": (1,)},
        output_axes={"z": (0, 1)},
        fill={"x": 2.0},
        padding=True,
        padding_words="holds",
        chunking=False,
        chunking_words="",
    )
    several = dataclasses.replace(MANIFEST, variants=(variant,), lengths=rules)
    path = tmp_path / "model.so"
    path.write_bytes(CODE)
    append_manifest(path, several)
    read = read_manifest(path)
    assert dataclasses.replace(read, library_bytes=0, library_sha256="") == several


@pytest.mark.parametrize("seed", range(40))
def test_any_changed_byte_is_refused(artefact, seed):
    data = bytearray(artefact.read_bytes())
    position = (seed * 2654435761) % len(data)
    data[position] ^= 0x40
    artefact.write_bytes(data)
    with pytest.raises(BadInput, match=r"model\.so: (damaged|not an artefact|made by another)"):
        read_manifest(artefact)


@pytest.mark.parametrize("keep", [0, 1, 47, 48, 500, len(CODE), len(CODE) + 100])
def test_any_cut_is_refused(artefact, keep):
    artefact.write_bytes(artefact.read_bytes()[:keep])
    with pytest.raises(BadInput, match="cut short"):
        read_manifest(artefact)


def test_bytes_added_in_front_are_refused(artefact):
    artefact.write_bytes(b"\0" * 16 + artefact.read_bytes())
    with pytest.raises(BadInput, match="damaged"):
        read_manifest(artefact)


def test_other_format_version_says_rebuild(tmp_path):
    path = tmp_path / "model.so"
    path.write_bytes(CODE)
    append_manifest(path, dataclasses.replace(MANIFEST, format_version=FORMAT_VERSION + 1))
    with pytest.raises(BadInput, match=r"made by another version.*rebuild"):
        read_manifest(path)


def test_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(BadInput, match=r"no such file; build it with"):
        read_manifest(tmp_path / "none.so")


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.so"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("stopped in the middle")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.so"]


def test_a_finished_write_is_whole(tmp_path):
    path = tmp_path / "model.so"
    with whole_file(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["model.so"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    """Not what one that still runs is writing, nor what belongs to another file."""
    program = """
import os, sys
from pathlib import Path
from hetero_tvm.bundle import whole_file
with whole_file(Path(sys.argv[1])) as temporary:
    print(temporary, flush=True)
    input()
    os.kill(os.getpid(), 9)
"""
    path = tmp_path / "model.so"
    left = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        left.append((Path(process.stdout.readline().strip()), process))
    (killed, first), (busy, second) = left
    first.communicate("\n")
    other = tmp_path / killed.name.replace("model.so", "other.so")
    other.touch()
    with whole_file(path) as temporary:
        assert not killed.exists() and busy.exists() and other.exists()
        temporary.write_bytes(b"new")
    second.communicate("\n")
    with whole_file(path):
        assert not busy.exists()


@pytest.mark.parametrize("axes", [(None, (0, 2)), (None, (0,)), (None,), (None, None, None)])
def test_axes_that_show_no_output_are_refused(artefact, axes):
    artefact.write_bytes(CODE)
    append_manifest(artefact, dataclasses.replace(MANIFEST, output_axes=axes))
    with pytest.raises(BadInput, match="made by another version"):
        read_manifest(artefact)


def _footer(text):
    return bundle._FOOTER.pack(hashlib.sha256(text).digest(), len(text), b"HETROTVM")


def _sealed(path, change):
    """An artefact of the format's checksums whose description is `change` of a good one."""
    raw = json.loads(MANIFEST.to_json())
    change(raw)
    text = json.dumps({**raw, "library_sha256": hashlib.sha256(b"").hexdigest()}).encode()
    path.write_bytes(
        text + bundle._FOOTER.pack(hashlib.sha256(text).digest(), len(text), b"HETROTVM")
    )
    return path


_WEIGHTS = {"offset": 0, "nbytes": 4096, "sha256": "", "of_function": {}}
_LLM = {"caches": [], "capacity": 8, "vocabulary": 9, "stop_tokens": [], "texts": {}}
_VARIANT = {
    key: json.loads(MANIFEST.to_json())[key]
    for key in ("inputs", "outputs", "output_axes", "plan", "npu_regions")
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw.pop("dtype"), "no field dtype"),
        (lambda raw: raw.update(inputs=3), "inputs is"),
        (lambda raw: raw["inputs"][0].update(shape=[1, -3]), "impossible shape"),
        (lambda raw: raw["inputs"][0].update(shape=[2**62, 2**62]), "larger than any memory"),
        (lambda raw: raw["inputs"][0].update(dtype="O"), "no type 'O'"),
        (lambda raw: raw["ranges"][0].update(kind="index"), "indexes nothing"),
        (lambda raw: raw["ranges"][0].update(values=[]), "without a value to choose"),
        (lambda raw: raw.update(library_bytes=-1), "-1 bytes of code"),
        (lambda raw: raw.update(plan=None), "plan is"),
        (
            lambda raw: raw.update(
                weights={**_WEIGHTS, "tensors": [{**raw["inputs"][0]}] * 2, "places": [0, 4096]}
            ),
            "at 4096 of 4096 bytes",
        ),
        (
            lambda raw: raw.update(variants=[{**_VARIANT, "length": 0, "function": "f"}]),
            r"variants of the lengths \[0\]",
        ),
        (
            lambda raw: raw.update(variants=[{**_VARIANT, "length": 1, "function": "f"}]),
            "no predicted time",
        ),
        (
            lambda raw: raw.update(
                variants=[
                    {**_VARIANT, "length": 1, "function": "f", "plan": {"predicted_us": 10**400}}
                ]
            ),
            "no predicted time",
        ),
        (lambda raw: raw.update(gpu_share=10**400), "gpu_share is '1000"),
        (lambda raw: raw.update(gpu_share=0), "a share of 0 of the GPU"),
        (lambda raw: raw.update(llm={**_LLM, "capacity": 2**31}), "2147483648 are remembered"),
        (lambda raw: raw.update(llm={**_LLM, "vocabulary": 0}), "without room"),
    ],
)
def test_what_was_sealed_by_a_stranger_is_checked_field_by_field(tmp_path, change, said):
    with pytest.raises(BadInput, match=f"made by another version of hetero_tvm .*{said}"):
        read_manifest(_sealed(tmp_path / "m.so", change))


def test_a_description_that_nests_without_end_is_refused(tmp_path):
    text = b"[" * 200_000
    path = tmp_path / "m.so"
    path.write_bytes(
        text + bundle._FOOTER.pack(hashlib.sha256(text).digest(), len(text), b"HETROTVM")
    )
    with pytest.raises(BadInput, match="nests too deep"):
        read_manifest(path)
