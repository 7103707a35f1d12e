"""Language models of several families, step by step against ONNX Runtime on the same file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend.llm_folder import read_llm_folder
from hetero_tvm.frontend.llm_import import StepImporter
from relay_passes.rewrite_bindings import dataflow_bindings, is_call
from tests.hetero_tvm.frontend.llm_on_cpu import CpuSteps
from tests.hetero_tvm.tiny_llm import Reference, TinyLlm, build

# float32 on both sides, sums of some hundred terms in another order.
TOLERANCE = 2e-5
FAMILIES = {
    "llama": TinyLlm(prune_head=True),
    "qwen2": TinyLlm(packed=False, bias=True, tied=True, separate_rotary=True, layers=1),
    "phi3": TinyLlm(heads=4, groups=4, partial_rotary=0.5, depth=32, layers=1),
    "gemma2": TinyLlm(softcap=3.0, final_softcap=2.0, tied=True, window=7, layers=1),
    "mistral": TinyLlm(window=5, groups=1, prune_head=True, layers=1),
    "written_out": TinyLlm(decomposed=True, guarded=True, layers=1),
    "written_out_capped": TinyLlm(decomposed=True, softcap=3.0, window=6, groups=4, layers=1),
    "opset23": TinyLlm(decomposed=True, attention_op="joined", window=6, layers=1),
    "opset23_joins": TinyLlm(decomposed=True, attention_op="inside", layers=1),
    "scaled_rotary": TinyLlm(separate_rotary=True, packed=False, rotary_scale=4.0, layers=1),
}


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    scale = np.abs(want).max()
    assert np.abs(got - want).max() <= TOLERANCE * scale


NIGHTLY = {
    "mistral",
    "scaled_rotary",
    "opset23_joins",
}  # what is in them is in others too, apart from sizes


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=[pytest.mark.nightly] if name in NIGHTLY else [])
        for name in FAMILIES
    ],
)
def test_prompt_in_chunks_and_tokens_one_by_one(family, tmp_path):
    spec = FAMILIES[family]
    folder = build(spec, tmp_path / "model")
    ours, reference = CpuSteps(folder, [1, 8], 32), Reference(folder / "model.onnx")
    tokens = [int(t) for t in np.random.default_rng(3).integers(0, spec.vocabulary, 16)]
    ours.step(8, tokens[:8])
    got = ours.step(8, tokens[8:13])  # filled up
    assert_same(got, reference.step(tokens[:13]))
    for token in tokens[13:]:
        assert_same(ours.step(1, [token]), reference.step([token]))


def test_chunk_may_reach_behind_the_end_of_the_cache(tmp_path):
    folder = build(TinyLlm(layers=1), tmp_path / "model")
    ours, reference = CpuSteps(folder, [8], 12), Reference(folder / "model.onnx")
    tokens = list(range(12))
    ours.step(8, tokens[:8])
    assert_same(ours.step(8, tokens[8:]), reference.step(tokens))


def test_caches_are_inputs_and_logits_the_only_output(tmp_path):
    step = StepImporter(read_llm_folder(build(TinyLlm(), tmp_path / "model"))).step(4, 24)
    shapes = {spec.name: (spec.shape, spec.dtype) for spec in step.inputs}
    assert shapes["past_key_values.1.value"] == ((1, 2, 24, 16), "float32")
    assert shapes["hetero_past"] == ((1,), "int32")
    assert "attention_mask" not in shapes
    assert [(spec.name, spec.shape) for spec in step.outputs] == [("logits", (1, 1, 64))]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        pytest.param((("rotary_interleaved", 1),), "attribute rotary_interleaved=1", id="pairs"),
        pytest.param((("smooth_softmax", 1),), "attribute smooth_softmax=1", id="sink"),
    ],
)
def test_names_node_and_attribute_that_it_cannot_do(attributes, message, tmp_path):
    folder = build(TinyLlm(attributes=attributes), tmp_path / "model")
    with pytest.raises(BadInput, match=rf"node .*GroupQueryAttention.*: {message}"):
        StepImporter(read_llm_folder(folder)).step(4, 24)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"softcap": 2.0}, r"attribute softcap=2.0", id="softcap"),
        pytest.param({"is_causal": 1}, r"is_causal beside a mask", id="causal_and_mask"),
    ],
)
def test_names_what_of_onnx_own_attention_it_cannot_do(changes, message, tmp_path):
    folder = build(TinyLlm(layers=1, decomposed=True, attention_op="inside"), tmp_path / "model")
    proto = onnx.load(folder / "model.onnx")
    (node,) = [node for node in proto.graph.node if node.op_type == "Attention"]
    node.attribute.extend(onnx.helper.make_attribute(*change) for change in changes.items())
    onnx.save(proto, folder / "model.onnx")
    with pytest.raises(BadInput, match=rf"node .*Attention.*: {message}"):
        StepImporter(read_llm_folder(folder)).step(4, 24)


def test_onnx_own_attention_may_be_causal_by_itself(tmp_path):
    folder = build(TinyLlm(layers=1, decomposed=True, attention_op="inside"), tmp_path / "model")
    proto = onnx.load(folder / "model.onnx")
    (node,) = [node for node in proto.graph.node if node.op_type == "Attention"]
    node.input[3] = ""
    node.attribute.append(onnx.helper.make_attribute("is_causal", 1))
    onnx.save(proto, folder / "model.onnx")
    step = StepImporter(read_llm_folder(folder)).step(4, 24)
    (call,) = [
        binding.value
        for binding in dataflow_bindings(step.mod["main"])
        if is_call(binding.value, "hetero.attention")
    ]
    assert float(call.attrs["scale"]) == 0.25 and int(call.attrs["window"]) == 0


def test_context_longer_than_the_table_of_angles_is_refused(tmp_path):
    folder = build(TinyLlm(context=16), tmp_path / "model")
    with pytest.raises(BadInput, match="a context of 24: it knows angles for 16 positions"):
        StepImporter(read_llm_folder(folder)).step(4, 24)


def test_model_without_logits_product_is_refused(tmp_path):
    folder = build(TinyLlm(layers=1), tmp_path / "model")
    proto = onnx.load(folder / "model.onnx")
    (last,) = [node for node in proto.graph.node if "logits" in node.output]
    last.output[0] = "inner"
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["inner"], ["logits"]))
    onnx.save(proto, folder / "model.onnx")
    with pytest.raises(BadInput, match="the product that makes the logits was not found"):
        StepImporter(read_llm_folder(folder)).step(4, 24)


@pytest.mark.parametrize("mask", ["none", "all"])
def test_attention_that_sees_what_comes_later_is_refused(mask, tmp_path):
    folder = build(TinyLlm(layers=1, decomposed=True, mask=mask), tmp_path / "model")
    with pytest.raises(
        BadInput, match=r"(has no mask|hides something else than).*: export a decoder"
    ):
        StepImporter(read_llm_folder(folder)).step(4, 24)


def test_cache_of_a_windows_rows_is_the_window_of_ours(tmp_path):
    """ONNX Runtime drops rows from a buffer of the window's size; ours holds the whole sequence."""
    spec = TinyLlm(window=5, layers=1, attributes=(("sliding_window_cache", 1),))
    folder = build(spec, tmp_path / "model")
    ours, reference = CpuSteps(folder, [1, 8], 24), Reference(folder / "model.onnx")
    assert {cache.shape[2] for cache in reference.past.values()} == {5}
    tokens = [int(t) for t in np.random.default_rng(3).integers(0, spec.vocabulary, 16)]
    ours.step(8, tokens[:8])
    assert_same(ours.step(8, tokens[8:13]), reference.step(tokens[:13]))
    for token in tokens[13:]:
        assert_same(ours.step(1, [token]), reference.step([token]))
