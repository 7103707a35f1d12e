"""Small ONNX models that several tests build."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def mlp(path, *, rows=4, free_rows=False, seed=0):
    """Two-layer perceptron: `x` [rows, 32] -> `y` [rows, 16]."""
    rng = np.random.default_rng(seed)
    dim = "rows" if free_rows else rows
    weights = {
        "w0": rng.standard_normal((32, 64), np.float32) / 6,
        "b0": rng.standard_normal(64, np.float32),
        "w1": rng.standard_normal((64, 16), np.float32) / 8,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h0"], name="first"),
        helper.make_node("Add", ["h0", "b0"], ["h1"], name="bias"),
        helper.make_node("Relu", ["h1"], ["h2"], name="relu"),
        helper.make_node("MatMul", ["h2", "w1"], ["y"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [dim, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [dim, 16])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def run_with_onnxruntime(path, **inputs):
    """Outputs by name."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))
