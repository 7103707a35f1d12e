"""Tables in 4 and 8 bits, as ONNX Runtime reads them. Attention is in test_llm_import."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hetero_tvm.errors import UnsupportedModel
from hetero_tvm.frontend import converters
from hetero_tvm.frontend.decompose import DECOMPOSITIONS
from hetero_tvm.frontend.llm_nodes import LLM_DECOMPOSITIONS, PAST
from hetero_tvm.frontend.node_view import NodeView
from hetero_tvm.frontend.shape_folding import fold_model
from hetero_tvm.frontend.tensor_spec import TensorSpec

_ROWS, _BLOCKS, _BLOCK = 7, 3, 16


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [True, False], ids=["zero_points", "symmetric"])
def test_look_up_in_blocks_of_integers(bits, zeros):
    rng = np.random.default_rng(bits)
    width = _BLOCKS * _BLOCK * bits // 8
    table = rng.integers(0, 256, (_ROWS, width), dtype=np.uint8)
    weights = {"table": table, "scales": rng.random((_ROWS, _BLOCKS), np.float32)}
    if zeros:
        packed = -(-_BLOCKS * bits // 8)
        weights["zeros"] = rng.integers(0, 256, (_ROWS, packed), dtype=np.uint8)
    node = helper.make_node(
        "GatherBlockQuantized",
        ["table", "ids", "scales", *(["zeros"] if zeros else [])],
        ["y"],
        name="look_up",
        domain="com.microsoft",
        bits=bits,
        block_size=_BLOCK,
        gather_axis=0,
        quantize_axis=1,
    )
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [info("ids", TensorProto.INT64, [1, 4])],
        [info("y", TensorProto.FLOAT, [1, 4, _BLOCKS * _BLOCK])],
        initializer=[numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    inputs = (TensorSpec(name="ids", dtype="int64", shape=(1, 4)),)
    rules = {**DECOMPOSITIONS, **LLM_DECOMPOSITIONS}
    folded = fold_model(model, inputs, rules, converters.is_importable)
    assert all(n.domain == "" for n in folded.proto.graph.node)
    feed = {"ids": np.array([[6, 0, 3, 3]])}
    got, want = (
        onnxruntime.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, feed)[0]
        for proto in (folded.proto, model)
    )
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "attributes", "words"),
    [
        ([], {"causal": 0}, "attribute causal=0"),
        ([], {"qk_output": 1}, "attribute qk_output=1"),
        (["", "", "q_norm", "k_norm"], {}, "input q_norm_weight"),
        (["k_scale"], {}, "input k_scale"),
    ],
)
def test_attention_that_means_something_else_is_refused(inputs, attributes, words):
    operands = [*"qkv", "past_k", "past_v", *[""] * 7, *inputs]
    node = helper.make_node(
        "GroupQueryAttention", operands, ["y"], num_heads=2, kv_num_heads=1, **attributes
    )
    view = NodeView(proto=node, opset=20, types={PAST: None}, constants={})
    with pytest.raises(UnsupportedModel, match=words):
        LLM_DECOMPOSITIONS["com.microsoft", "GroupQueryAttention"](view, None)
