"""A model with its weights in few bits, run by ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import small_llm
from onnx import numpy_helper

from hetero_tvm.block_quantization import Settings, quantize
from hetero_tvm.errors import BadInput
from hetero_tvm.frontend.contrib_ops import dequantise_blocks
from hetero_tvm.quantize_onnx import Model

_TOKENS = [5, 17, 200, 3, 5]


def _run(path, tokens=_TOKENS) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    past = next(entry for entry in session.get_inputs() if entry.name.startswith("past"))
    dtype = np.float16 if past.type == "tensor(float16)" else np.float32
    feeds = {
        "input_ids": np.int64([tokens]),
        "attention_mask": np.ones((1, len(tokens)), np.int64),
        past.name: np.zeros((1, 2, 0, 8), dtype),
    }
    return session.run(["logits"], feeds)[0][0]


def _all(model: Model, how: Settings) -> dict[str, Settings]:
    return {layer.name: how for layer in model.layers}


def _stored(weight: np.ndarray, how: Settings) -> np.ndarray:
    """What is left of `weight` [N, K]."""
    blocks = quantize(weight, how)
    return dequantise_blocks(
        blocks.packed,
        blocks.scales,
        blocks.zeros,
        columns=len(weight),
        rows=weight.shape[1],
        bits=how.bits,
        block=how.group,
    )


def test_layers_are_found_in_every_form(tmp_path):
    model = Model(small_llm.write(tmp_path / "m", small_llm.weights(0)))
    found = {layer.name: (layer.depth, layer.columns, layer.is_head) for layer in model.layers}
    assert found == {
        "/layers.0/up": (32, 48, False),
        "/layers.0/down": (48, 32, False),
        "/layers.0/gate": (32, 32, False),
        "/lm_head": (32, 320, True),
    }


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("how", [Settings(group=16), Settings(bits=8), Settings(symmetric=True)])
def test_the_model_computes_with_the_stored_weights(tmp_path, how, dtype, external):
    values = small_llm.weights(1, dtype)
    model = Model(small_llm.write(tmp_path / "m", values, external=external))
    reports = model.write(tmp_path / "q.onnx", _all(model, how))
    stored = dict(values)
    for name, turned in (("up", True), ("down", False), ("gate", False), ("head", True)):
        weight = values[name].T if turned else values[name]
        back = _stored(weight, how)
        stored[name] = back.T if turned else back
    want = small_llm.logits(stored, _TOKENS)
    got = _run(tmp_path / "q.onnx")
    # float16: four products in a row, each rounded to ten bits.
    tolerance = 1e-5 if dtype == np.float32 else 1e-2
    np.testing.assert_allclose(got, want, atol=tolerance * np.abs(want).max())
    assert all(0 < report.relative_error < 0.2 for report in reports)
    onnx.checker.check_model(str(tmp_path / "q.onnx"), full_check=False)


def test_the_old_weights_are_gone_and_the_rest_is_bit_for_bit(tmp_path):
    values = small_llm.weights(2)
    model = Model(small_llm.write(tmp_path / "m", values, external=True))
    settings = _all(model, Settings())
    settings["/layers.0/gate"] = None
    model.write(tmp_path / "q.onnx", settings)
    written = onnx.load(tmp_path / "q.onnx")
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    for name in ("embed", "gate", "bias"):
        np.testing.assert_array_equal(found[name], values[name])
    assert not {"up", "down", "head"} & set(found)
    assert "Transpose" not in [node.op_type for node in written.graph.node]
    size = (tmp_path / "q.onnx.data").stat().st_size
    kept = sum(values[name].nbytes for name in ("embed", "gate"))
    assert size < kept + 16_000


def test_weights_in_few_bits_are_copied_bit_for_bit(tmp_path):
    model = Model(small_llm.write(tmp_path / "m", small_llm.weights(3)))
    settings = {**_all(model, Settings()), "/layers.0/up": None, "/lm_head": None}
    model.write(tmp_path / "once.onnx", settings)
    again = Model(tmp_path / "once.onnx")
    assert again.quantized == 2
    assert [layer.name for layer in again.layers] == ["/layers.0/up", "/lm_head"]
    again.write(tmp_path / "twice.onnx", _all(again, Settings(bits=8)))
    once, twice = (
        {t.name: t.raw_data for t in onnx.load(tmp_path / f"{name}.onnx").graph.initializer}
        for name in ("once", "twice")
    )
    same = [name for name in once if ".Q4" in name or ".scales" in name or ".zeros" in name]
    assert len(same) == 6
    assert all(twice[name] == once[name] for name in same)


def test_a_weight_that_two_products_share_is_stored_once(tmp_path):
    path = small_llm.write(tmp_path / "m", small_llm.weights(4))
    proto = onnx.load(path)
    down = next(node for node in proto.graph.node if node.name == "/layers.0/gate")
    down.input[1] = "gate"
    extra = onnx.helper.make_node("MatMul", ["d2", "gate"], ["unused"], name="/other")
    proto.graph.node.insert(list(proto.graph.node).index(down), extra)
    down.input[0] = "unused"
    onnx.save(proto, path)
    model = Model(path)
    model.write(tmp_path / "q.onnx", _all(model, Settings()))
    names = [t.name for t in onnx.load(tmp_path / "q.onnx").graph.initializer if "gate" in t.name]
    # Once as it is and once transposed, for the Gemm.
    assert sorted(names) == sorted(
        f"gate.{turned}32.{part}" for turned in ("", "T") for part in ("Q4", "scales", "zeros")
    )


def test_nodes_of_one_name_are_told_apart(tmp_path):
    path = small_llm.write(tmp_path / "m", small_llm.weights(5))
    proto = onnx.load(path)
    for node in proto.graph.node:
        node.name = "same" if node.op_type == "MatMul" else ""
    onnx.save(proto, path)
    assert [layer.name for layer in Model(path).layers] == ["same", "same#2", "gate", "same#3"]


def test_a_weight_that_is_not_finite_names_its_layer(tmp_path):
    values = small_llm.weights(6)
    values["gate"][3, 3] = np.nan
    model = Model(small_llm.write(tmp_path / "m", values))
    with pytest.raises(BadInput, match=r"layer /layers\.0/gate: a weight is not finite"):
        model.write(tmp_path / "q.onnx", _all(model, Settings()))
