"""The proof of a built language model: passes what is right, and sees what is wrong."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import hetero_tvm
from hetero_tvm import llm_check, memory
from hetero_tvm.errors import BadInput
from hetero_tvm.frontend.llm_folder import read_llm_folder
from hetero_tvm.output_error import FLOAT32
from tests.hetero_tvm.tiny_llm import TinyLlm, build


@pytest.fixture(scope="module")
def built(tmp_path_factory, opencl):
    folder = build(TinyLlm(layers=1), tmp_path_factory.mktemp("check") / "model")
    output = folder.parent / "llm.so"
    result = hetero_tvm.build(
        folder, target="host", output=output, devices="gpu", context=32, prefill=[8]
    )
    assert result.seconds["compare"] > 0
    return folder, output


def expected(folder):
    return llm_check.expected(read_llm_folder(folder), vocabulary=64, capacity=32, chunk=8)


def test_says_by_how_much_it_is_off(built):
    folder, output = built
    said = []
    error = llm_check.check(output, expected(folder), folder, said.append)
    assert 0 <= error < 1e-5
    assert said == [f"logits differ from ONNX Runtime's by {error:.1e} (relative)"]


def test_another_weight_is_found_out(built, tmp_path):
    _, output = built
    folder = build(TinyLlm(layers=1), tmp_path / "model")
    proto = onnx.load(folder / "model.onnx")
    (weight,) = [tensor for tensor in proto.graph.initializer if tensor.name == "out0"]
    changed = numpy_helper.to_array(weight) * np.float32(1.1)
    weight.CopyFrom(numpy_helper.from_array(changed, "out0"))
    onnx.save(proto, folder / "model.onnx")
    with pytest.raises(BadInput, match=r"differs from ONNX Runtime by .* in a prompt"):
        llm_check.check(output, expected(folder), folder, lambda _text: None)


def test_what_is_recorded_is_held_against_wherever_it_runs(built):
    _, output = built
    session = hetero_tvm.load_llm(output)
    recorded = session.manifest.reference
    errors = llm_check.hold(session, recorded, FLOAT32)
    assert [error.name for error in errors] == [f"logits after {n} tokens" for n in range(13, 17)]
    assert all(error.held and error.relative_error < 1e-5 for error in errors)
    other = {**recorded, "prompt": [(token + 1) % 64 for token in recorded["prompt"]]}
    assert not any(error.held for error in llm_check.hold(session, other, FLOAT32))
    with pytest.raises(BadInput, match="the recorded tokens are damaged"):
        llm_check.hold(session, {**recorded, "then": None}, FLOAT32)


def test_a_file_that_onnxruntime_refuses_is_said(built, tmp_path):
    folder = build(TinyLlm(layers=1), tmp_path / "model")
    read = read_llm_folder(folder)
    (folder / "model.onnx").write_bytes(b"no model")
    with pytest.raises(BadInput, match=r"ONNX Runtime cannot run it: .*--no-check"):
        llm_check.expected(read, vocabulary=64, capacity=32, chunk=8)


def test_knows_files_whose_activations_are_rounded(tmp_path):
    folder = build(TinyLlm(layers=1), tmp_path / "model")
    assert not llm_check.rounds_activations(folder / "model.onnx")
    proto = onnx.load(folder / "model.onnx")
    node = onnx.helper.make_node("MatMulNBits", ["a"], ["b"], accuracy_level=4)
    proto.graph.node.append(node)
    onnx.save(proto, folder / "model.onnx")
    assert llm_check.rounds_activations(folder / "model.onnx")


def test_lets_go_of_weights_after_every_stretch_of_calls(built, monkeypatch):
    folder, output = built
    forgotten = []
    monkeypatch.setattr(memory, "forget_spans", forgotten.append)
    llm_check.check(output, expected(folder), folder, lambda _text: None)
    manifest = hetero_tvm.load_llm(output).manifest
    part = manifest.weights
    # Each of them is mapped once for each device that reads it.
    assert all(sum(nbytes for _, nbytes in spans) % part.nbytes == 0 for spans in forgotten)
    assert forgotten[0]
    steps = 2 + 3  # chunks of the prompt, and tokens
    calls = min(map(len, manifest.calls.values()))  # of so small a model not many
    assert len(forgotten) > min(8, calls) * steps
