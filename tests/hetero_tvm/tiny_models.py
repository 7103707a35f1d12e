"""Small ONNX models that several tests build."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def mlp(path, *, rows=4, free_rows=False, seed=0, width=64):
    """Two-layer perceptron: `x` [rows, 32] -> `y` [rows, 16]."""
    rng = np.random.default_rng(seed)
    dim = "rows" if free_rows else rows
    weights = {
        "w0": rng.standard_normal((32, width), np.float32) / 6,
        "b0": rng.standard_normal(width, np.float32),
        "w1": rng.standard_normal((width, 16), np.float32) / width**0.5,
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


def product(path, *, depth, columns, seed=0):
    """One product: `x` [rows, depth], with free rows, -> `y` [rows, columns]."""
    weight = np.random.default_rng(seed).standard_normal((depth, columns), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", columns])],
        [numpy_helper.from_array(weight / np.float32(depth**0.5), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def residual_mlp(path, *, rows, wide, seed=0):
    """Two layers [wide, wide] with ReLU, the first one's result added to the second's."""
    rng = np.random.default_rng(seed)
    names = {"w0": wide**-0.5, "w1": wide**-0.5}
    weights = {n: rng.standard_normal((wide, wide), np.float32) * s for n, s in names.items()}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["t0"], name="first"),
        helper.make_node("Relu", ["t0"], ["r0"], name="first_relu"),
        helper.make_node("MatMul", ["r0", "w1"], ["t1"], name="second"),
        helper.make_node("Relu", ["t1"], ["r1"], name="second_relu"),
        helper.make_node("Add", ["r1", "r0"], ["y"], name="residual"),
    ]
    graph = helper.make_graph(
        nodes,
        "residual_mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, wide])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, wide])],
        [numpy_helper.from_array(array.astype(np.float32), n) for n, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def run_with_onnxruntime(path, **inputs):
    """Outputs by name."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def attention(path, *, mask=True, wide=16, seed=0):
    """One attention layer over a free length L: `ids`, `mask` [1, L] -> `y` [1, L, wide], `mean`.

    `mean` [1, wide] has no length. Without `mask` every token is seen, filled-up ones too.
    """
    rng = np.random.default_rng(seed)
    weights = {
        "table": rng.standard_normal((50, wide), np.float32),
        **{
            n: rng.standard_normal((wide, wide), np.float32) / wide**0.5 for n in ("wq", "wk", "wv")
        },
        "one": np.float32(1),
        "low": np.float32(-10000),
        "ax1": np.array([1]),
        "ax2": np.array([2]),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "ids"], ["e"], name="embed"),
        *(node("MatMul", ["e", f"w{n}"], [n], name=f"to_{n}") for n in "qkv"),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"], name="scores"),
    ]
    scores = "s"
    if mask:
        scores = "masked"
        nodes += [
            node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
            node("Sub", ["one", "m"], ["gone"]),
            node("Mul", ["gone", "low"], ["bias"]),
            node("Unsqueeze", ["bias", "ax1"], ["row"]),
            node("Add", ["s", "row"], ["masked"]),
            node("Unsqueeze", ["m", "ax2"], ["column"]),
            node("Mul", ["y", "column"], ["kept"]),
            node("ReduceSum", ["kept", "ax1"], ["sum"], keepdims=0),
            node("ReduceSum", ["m", "ax1"], ["count"], keepdims=1),
            node("Div", ["sum", "count"], ["mean"], name="mean"),
        ]
    attend = [
        node("Softmax", [scores], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["y"], name="attend"),
    ]
    end = next((i for i, n in enumerate(nodes) if n.output[0] == "column"), len(nodes))
    nodes[end:end] = attend
    value = helper.make_tensor_value_info
    inputs = [value("ids", TensorProto.INT64, [1, "L"])]
    outputs = [value("y", TensorProto.FLOAT, [1, "L", wide])]
    if mask:
        inputs.append(value("mask", TensorProto.INT64, [1, "L"]))
        outputs.append(value("mean", TensorProto.FLOAT, [1, wide]))
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "attention", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path
