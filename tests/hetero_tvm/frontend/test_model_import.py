"""The frontend as a whole."""

import onnxruntime

from hetero_tvm.frontend import import_model, random_inputs
from tests.hetero_tvm.frontend.onnx_cases import INT64, model, node, randn, save


def _classifier():
    nodes = [
        node("Gather", "table ids", "e"),
        node("ReduceMean", "e", "m", axes=[1], keepdims=0),
        node("Gemm", "m w b", "y", transB=1),
    ]
    weights = {"table": randn(11, 8), "w": randn(4, 8), "b": randn(4)}
    return model(nodes, {"ids": (INT64, ["batch", "length"])}, "y", weights)


def test_result(tmp_path):
    steps = []
    path = save(_classifier(), tmp_path)
    imported = import_model(path, input_shapes={"ids": [2, 5]}, progress=steps.append)
    assert [str(spec) for spec in imported.inputs + imported.outputs] == [
        "ids=2x5:int64",
        "y=2x4:float32",
    ]
    assert len(imported.sha256) == 64
    assert steps == [
        "reading the model",
        "folding shapes and constants",
        "importing",
        "checking against ONNX Runtime",
    ]


def test_folded_model_is_valid_and_computes_the_same(tmp_path):
    path = save(_classifier(), tmp_path)
    imported = import_model(path, input_shapes={"ids": [2, 5]})
    inputs = random_inputs(imported.onnx_model, 4)
    results = []
    for source in (str(path), imported.onnx_model.SerializeToString()):
        session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        results.append(session.run(None, inputs)[0])
    assert abs(results[0] - results[1]).max() < 1e-6


def test_a_path_may_be_text(tmp_path):
    path = save(_classifier(), tmp_path)
    assert import_model(str(path), input_shapes={"ids": [1, 3]}, check=False).errors == ()
