"""What the imported function looks like."""

import pytest
from tvm import relax
from tvm.ir import GenericConst

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend import converters, import_model
from relay_passes.rewrite_bindings import dataflow_bindings
from tests.hetero_tvm.frontend.onnx_cases import check, model, node, randn, save


def _network():
    nodes = [
        node("Gemm", "x w b", "h", name="/layer.0/dense"),
        node("Relu", "h", "r"),
        node("Split", "r", "p q", name="halves", axis=1, num_outputs=2),
        node("Mul", "p q", "y", name="layer_0_dense"),
    ]
    return model(
        nodes,
        {"input:0": [2, 3]} | {"x": [2, 3]},
        "y x2".replace(" x2", ""),
        {"w": randn(3, 4), "b": randn(4)},
        18,
    )


def test_structure(tmp_path):
    imported = check(_network(), tmp_path)
    func = imported.mod["main"]
    assert [param.name for param in func.params] == ["input_0", "x"]
    assert [spec.name for spec in imported.inputs] == ["input:0", "x"]
    assert len(func.body.blocks) == 1
    assert isinstance(func.body.blocks[0], relax.DataflowBlock)
    assert isinstance(func.body.body, relax.Tuple)
    assert relax.analysis.check_well_formed(imported.mod)
    weights = [
        a for b in dataflow_bindings(func) for a in b.value.args if isinstance(a, GenericConst)
    ]
    assert len(weights) == 2


def test_bindings_are_named_after_nodes(tmp_path):
    imported = check(_network(), tmp_path)
    assert dict(imported.node_of) == {
        "layer_0_dense_part": "/layer.0/dense",
        "layer_0_dense": "/layer.0/dense",
        "r": "r",
        "halves": "halves",
        "halves_1": "halves",
        "layer_0_dense_2": "layer_0_dense",
    }
    assert [b.var.name for b in dataflow_bindings(imported.mod["main"])] == list(imported.node_of)


def test_one_output_is_a_tuple_too(tmp_path):
    imported = check(model([node("Relu", "x", "y")], {"x": [2]}, "y"), tmp_path)
    assert len(imported.mod["main"].body.body.fields) == 1


def test_a_converter_of_the_wrong_shape_is_caught_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(converters.CONVERTERS, "Transpose", lambda c: c.x())
    proto = model([node("Transpose", "x", "y", name="turn")], {"x": [2, 3]}, "y")
    text = r"node 'turn' \(Transpose\) was imported as float32\[2, 3\] and is float32\[3, 2\]"
    with pytest.raises(BadInput, match=text):
        import_model(save(proto, tmp_path))
