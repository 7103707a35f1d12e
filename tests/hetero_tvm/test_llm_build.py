"""The build of a folder: what it refuses and what the manifest says. Numbers: test_llm_session."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import hetero_tvm
import target_specs
from hetero_tvm import bundle, cli
from hetero_tvm.errors import BadInput
from tests.hetero_tvm.tiny_llm import Reference, TinyLlm, build


@pytest.fixture
def folder(tmp_path):
    return build(TinyLlm(layers=1), tmp_path / "model", tokenizer=True)


def test_manifest_describes_the_model(folder, tmp_path):
    output = tmp_path / "llm.so"
    result = hetero_tvm.build(
        folder, target="host", output=output, devices="gpu", context=24, prefill=[8]
    )
    assert sorted(result.variants) == [1, 8]
    manifest = bundle.read_manifest(output)
    described = manifest.llm
    assert [(spec.name, spec.shape) for spec in described.caches] == [
        ("past_key_values.0.key", (1, 2, 24, 16)),
        ("past_key_values.0.value", (1, 2, 24, 16)),
    ]
    assert (described.capacity, described.vocabulary, described.stop_tokens) == (24, 64, (2,))
    assert described.texts == {"tokenizer.json": "{}"}
    assert [variant.function for variant in manifest.variants] == ["main_1", "main_8"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--length", "4"], "--length: .* folder, which takes none", id="length"),
        pytest.param(["--input", "x=1"], "--input: .* folder, which takes none", id="input"),
        pytest.param(["--dtype", "float16"], "--dtype float16: language models", id="dtype"),
        pytest.param(["--prefill", "8,x"], "--prefill 8,x: write whole numbers", id="prefill"),
        pytest.param(["--context", "1"], "--context 1: the model takes 2 to 96", id="context"),
    ],
)
def test_refuses_flags_that_make_no_sense(folder, flags, message, capsys):
    code = cli.main(["build", str(folder), "--target", "host", "--devices", "gpu", *flags])
    assert code == 2

    assert re.search(message, capsys.readouterr().err)


def test_flags_of_a_language_model_need_a_folder(folder):
    with pytest.raises(BadInput, match="for a language model's folder"):
        hetero_tvm.build(folder / "model.onnx", target="host", context=5)


def test_says_that_it_works_on_token_ids_without_a_tokenizer(folder, capsys):
    (folder / "tokenizer.json").unlink()
    code = cli.main(
        ["build", str(folder), "--target", "host", "--devices", "gpu", "--plan-only", "--json"]
    )
    said = capsys.readouterr()
    assert code == 0
    assert "no tokenizer.json: the artefact works on token ids" in said.err
    assert json.loads(said.out)["output"] is None


def test_both_devices_work_on_every_layer_alike(tmp_path, opencl):
    """Long enough to be planned by a few layers, on devices so slow that cutting pays."""
    spec = (Path(target_specs.__file__).parent / "socs" / "host.toml").read_text()
    figures = r"^(matmul_gflops|batched_matmul_gflops|reduction_gbps|vector_gbps) = [0-9.]+"
    target = tmp_path / "slow.toml"
    target.write_text(re.sub(figures, r"\1 = 1.0", spec, flags=re.MULTILINE))
    folder = build(TinyLlm(layers=12, window=9), tmp_path / "model")
    output = tmp_path / "llm.so"
    result = hetero_tvm.build(folder, target=str(target), output=output, context=40, prefill=[4])
    for plan in result.variants.values():
        assert {op.device for op in plan.ops} == {"gpu", "npu", "gpu+npu"}
        assert plan.regions > 12
    prompt = [5, 9, 33, 60, 2, 17, 41, 8, 8, 30, 12]
    session = hetero_tvm.load_llm(output)
    got = list(session.generate(prompt, max_new_tokens=24, stop_tokens=()))
    assert got == Reference(folder / "model.onnx").greedy(prompt, 24)


def test_steps_of_one_and_of_many_tokens_take_the_same_weights(folder, tmp_path, opencl):
    output = tmp_path / "llm.so"
    hetero_tvm.build(folder, target="host", output=output, devices="gpu", context=24, prefill=[8])
    taken = bundle.read_manifest(output).weights.of_function
    assert set(taken["main_1"]) == set(taken["main_8"])
    assert len(taken["main_1"]) > 4


# A model whose weights are most of what its build holds, and one with next to none.
MEDIUM = TinyLlm(layers=3, heads=8, groups=4, depth=96, hidden=768, inner=2048, vocabulary=6000)
BUILD = """
import sys
import hetero_tvm
from hetero_tvm import memory
hetero_tvm.build(sys.argv[1], target="host", output=sys.argv[2], context=64, prefill=[16])
print(memory.peak_bytes())
"""


def test_a_build_takes_two_and_a_half_times_the_file_at_most(tmp_path, opencl):
    """With its comparison; over what the same program takes for a model of no size."""
    peaks, size = [], 0
    for spec in (TinyLlm(layers=3), MEDIUM):
        folder = build(spec, tmp_path / f"model-{spec.hidden}")
        path = folder / "model.onnx"
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location="model.onnx.data")
        size = sum(file.stat().st_size for file in folder.iterdir())
        done = subprocess.run(
            [sys.executable, "-c", BUILD, str(folder), str(tmp_path / f"{spec.hidden}.so")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    assert size > 100e6
    # Page tables, compilers and threads are not the weights' part: some noise of either peak.
    assert peaks[1] - peaks[0] < 2.5 * size
