"""The rewrites after the import, together: real exporters' idioms become few operators."""

import numpy as np

from tests.hetero_tvm.frontend.onnx_cases import check, model, node, op_counts, randn


def test_a_written_out_transformer_block_is_recognised(tmp_path):
    """Layer normalisation and GELU as a PyTorch exporter of opset 11 writes them."""
    nodes = [
        node("ReduceMean", "x", "mean", axes=[-1]),
        node("Sub", "x mean", "d"),
        node("Pow", "d two", "d2"),
        node("ReduceMean", "d2", "var", axes=[-1]),
        node("Add", "var eps", "ve"),
        node("Sqrt", "ve", "sd"),
        node("Div", "d sd", "n"),
        node("Mul", "n gain", "ng"),
        node("Add", "ng bias", "normal"),
        node("MatMul", "normal w", "h"),
        node("Div", "h root2", "hs"),
        node("Erf", "hs", "e"),
        node("Add", "e one", "e1"),
        node("Mul", "h e1", "he"),
        node("Mul", "he half", "y", name="activation"),
    ]
    numbers = {"two": 2.0, "eps": 1e-5, "root2": np.sqrt(2), "one": 1.0, "half": 0.5}
    weights = {name: np.float32(value) for name, value in numbers.items()}
    weights |= {"gain": randn(8), "bias": randn(8), "w": randn(8, 16)}
    imported = check(model(nodes, {"x": [2, 4, 8]}, "y", weights, 11), tmp_path)
    assert op_counts(imported) == {"nn.layer_norm": 1, "matmul": 1, "nn.gelu": 1}
    assert list(imported.node_of.values())[-1] == "activation"


def test_every_binding_has_a_node(tmp_path):
    nodes = [node("Conv", "x w", "c", name="first"), node("Relu", "c", "y", name="second")]
    imported = check(model(nodes, {"x": [1, 3, 8]}, "y", {"w": randn(4, 3, 3)}), tmp_path)
    names = list(imported.node_of)
    assert set(imported.node_of.values()) == {"first", "second"}
    assert len(names) == sum(op_counts(imported).values())
