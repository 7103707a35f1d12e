"""Perplexity by ONNX Runtime, against float64."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import small_llm

from hetero_tvm.errors import BadInput
from hetero_tvm.perplexity import perplexity

_PAST = "past_key_values.0.key"


def _expected(values, tokens, window) -> float:
    total, count = 0.0, 0
    for start in range(0, len(tokens), window):
        part = tokens[start : start + window]
        logits = small_llm.logits(values, part)
        likely = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        total -= sum(likely[n, token] for n, token in enumerate(part[1:]))
        count += len(part) - 1
    return float(np.exp(total / count))


@pytest.mark.parametrize(("window", "counted"), [(512, 40), (16, 38), (8, 35)])
def test_windows(tmp_path, window, counted):
    values = small_llm.weights(0)
    path = small_llm.write(tmp_path / "m", values)
    tokens = [int(t) for t in np.random.default_rng(1).integers(0, small_llm.VOCABULARY, 41)]
    found = perplexity(path, tokens, window=window)
    assert found.value == pytest.approx(_expected(values, tokens, window), rel=1e-4)
    assert found.tokens == counted


def test_float16_caches_are_fed_as_such(tmp_path):
    values = small_llm.weights(0, np.float16)
    path = small_llm.write(tmp_path / "m", values)
    assert perplexity(path, [1, 2, 3]).value == pytest.approx(
        _expected(values, [1, 2, 3], 512), rel=1e-2
    )


def test_a_head_that_the_file_leaves_open(tmp_path):
    values = small_llm.weights(0)
    path = small_llm.write(tmp_path / "m", values)
    proto = onnx.load(path)
    proto.graph.input[2].type.tensor_type.shape.dim[3].dim_param = "depth"
    onnx.save(proto, path)
    with pytest.raises(BadInput, match="leaves its heads open"):
        perplexity(path, [1, 2, 3])
    assert perplexity(path, [1, 2, 3], head_dim=8).tokens == 2


def test_files_that_give_the_last_logits_only(tmp_path):
    """Fed token by token; the cache that the file gives back is what it gets next."""
    values = small_llm.weights(0)
    path = small_llm.write(tmp_path / "m", values)
    proto = onnx.load(path)
    graph, cast = proto.graph, proto.graph.node[-1]
    cast.output[0] = "every"
    last = onnx.numpy_helper.from_array(np.int64([-1]), "last")
    # The logits are wrong unless the cache has as many positions as the mask.
    step = onnx.numpy_helper.from_array(np.float32(np.ones((1, 2, 1, 8))), "one")
    graph.initializer.extend([last, step])
    graph.node.extend(
        [
            onnx.helper.make_node("Gather", ["every", "last"], ["some"], axis=1),
            onnx.helper.make_node(
                "Concat", ["past_key_values.0.key", "one"], ["present.0.key"], axis=2
            ),
            onnx.helper.make_node("Shape", ["present.0.key"], ["held"], start=2, end=3),
            onnx.helper.make_node("Shape", ["attention_mask"], ["seen"], start=1, end=2),
            onnx.helper.make_node("Sub", ["held", "seen"], ["off"]),
            onnx.helper.make_node("Cast", ["off"], ["off_f"], to=onnx.TensorProto.FLOAT),
        ]
    )
    bonus = onnx.numpy_helper.from_array(np.float32(np.arange(320)), "bonus")
    graph.initializer.append(bonus)
    graph.node.extend(
        [
            onnx.helper.make_node("Mul", ["off_f", "bonus"], ["wrong"]),
            onnx.helper.make_node("Add", ["some", "wrong"], ["logits"]),
        ]
    )
    shape = [1, 2, "total", 8]
    graph.output.append(
        onnx.helper.make_tensor_value_info("present.0.key", onnx.TensorProto.FLOAT, shape)
    )
    onnx.save(proto, path)
    tokens = [4, 9, 300, 4, 2]
    found = perplexity(path, tokens)
    assert found.value == pytest.approx(_expected(values, tokens, 512), rel=1e-4)


def test_what_has_no_perplexity(tmp_path):
    path = small_llm.write(tmp_path / "m", small_llm.weights(0))
    with pytest.raises(BadInput, match="at least 2"):
        perplexity(path, [1])
    with pytest.raises(BadInput, match="cannot run"):
        perplexity(path, [1, 10_000])
    proto = onnx.load(path)
    proto.graph.input[1].name = "pixels"
    onnx.save(proto, path)
    with pytest.raises(BadInput, match="input pixels"):
        perplexity(path, [1, 2])
