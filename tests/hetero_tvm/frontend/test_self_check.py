"""The self-check finds what is wrong, and who is to blame: each step is sabotaged once."""

import numpy as np
import pytest
from tvm import relax

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend import canonicalise, contrib_ops, converters, decompose, import_model
from hetero_tvm.frontend.self_check import coarsest_types, is_close, relative_error
from relay_passes.rewrite_bindings import is_call, rewrite_main
from tests.hetero_tvm.frontend.onnx_cases import FLOAT, INT64, model, node, randn, save


def _network():
    nodes = [
        node("MatMul", "x w", "h", name="dense"),
        node("Sigmoid", "h", "s", name="gate_a"),
        node("Tanh", "s", "t", name="curve"),
        node("Sigmoid", "t", "u", name="gate_b"),
        node("Softmax", "u", "y", name="last"),
    ]
    return model(nodes, {"x": [2, 8]}, "y", {"w": randn(8, 8)})


def test_a_right_import_passes_and_reports_its_errors(tmp_path):
    (error,) = import_model(save(_network(), tmp_path)).errors
    assert error.name == "y"
    assert error.relative < 1e-6


@pytest.fixture
def wrong_sigmoid(monkeypatch):
    monkeypatch.setitem(converters.CONVERTERS, "Sigmoid", lambda c: relax.op.tanh(c.x()))


def test_a_wrong_converter_is_found_at_its_first_node(tmp_path, wrong_sigmoid):
    with pytest.raises(BadInput) as caught:
        import_model(save(_network(), tmp_path))
    text = str(caught.value)
    assert "the import differs from ONNX Runtime: output 'y' by" in text
    assert "first differing node: 'gate_a' (Sigmoid) (its converter is wrong)" in text
    assert "gate_b" not in text


def test_keep_going_lists_every_wrong_node_but_not_its_readers(tmp_path, wrong_sigmoid):
    with pytest.raises(BadInput, match=r"nodes: 'gate_a' \(Sigmoid\), 'gate_b' \(Sigmoid\) \("):
        import_model(save(_network(), tmp_path), keep_going=True)


def test_no_check_lets_it_pass(tmp_path, wrong_sigmoid):
    assert import_model(save(_network(), tmp_path), check=False).errors == ()


def test_a_slightly_wrong_constant_is_found(tmp_path, monkeypatch):
    def convert(c):
        return relax.op.nn.layer_norm(c.x(0), c.x(1), c.x(2), [1], epsilon=1e-2)

    monkeypatch.setitem(converters.CONVERTERS, "LayerNormalization", convert)
    nodes = [node("LayerNormalization", "x g b", "y", name="norm")]
    proto = model(nodes, {"x": [2, 8]}, "y", {"g": randn(8), "b": randn(8)})
    with pytest.raises(BadInput, match="first differing node: 'norm'"):
        import_model(save(proto, tmp_path))


def test_a_wrong_decomposition_is_found(tmp_path, monkeypatch):
    def wrong(view, out):
        out.output(out.op("Sigmoid", view.input(0)))
        return True

    rules = {**decompose.DECOMPOSITIONS, (contrib_ops.MICROSOFT, "QuickGelu"): wrong}
    monkeypatch.setattr("hetero_tvm.frontend.model_import.DECOMPOSITIONS", rules)
    nodes = [
        node("Relu", "x", "r"),
        node("QuickGelu", "r", "q", name="quick", domain="com.microsoft"),
        node("Neg", "q", "y"),
    ]
    text = r"first differing node: 'quick' \(folding or decomposing it changed its value\)"
    with pytest.raises(BadInput, match=text):
        import_model(save(model(nodes, {"x": [2, 8]}, "y"), tmp_path))


def test_a_wrong_rewrite_is_found(tmp_path, monkeypatch):
    def wrong(mod):
        def rule(_var, value, _known):
            return relax.op.exp(value.args[0]) if is_call(value, "relax.tanh") else None

        return rewrite_main(mod, rule)

    monkeypatch.setattr(canonicalise, "passes", lambda: [wrong])
    text = r"first differing node: 'curve' \(a rewrite after the import changed its value\)"
    with pytest.raises(BadInput, match=text):
        import_model(save(_network(), tmp_path))


def test_integers_must_be_equal(tmp_path, monkeypatch):
    monkeypatch.setitem(converters.CONVERTERS, "Neg", lambda c: relax.op.add(c.x(), c.scalar(1)))
    proto = model([node("Neg", "x", "y", name="minus")], {"x": (INT64, [4])}, "y")
    with pytest.raises(BadInput, match="'minus'"):
        import_model(save(proto, tmp_path))


def test_a_model_that_onnxruntime_cannot_run(tmp_path):
    nodes = [node("Gather", "table i", "y")]
    weights = {"table": randn(4, 2).astype("float64"), "i": np.array([9])}
    proto = model([*nodes, node("Cast", "x", "z", to=FLOAT)], {"x": [2]}, "y z", weights)
    with pytest.raises(BadInput, match=r"(cannot run the model|outside the axis)"):
        import_model(save(proto, tmp_path))


@pytest.mark.parametrize(
    ("found", "wanted", "error"),
    [
        pytest.param([1.0, 2.0], [1.0, 2.0], 0.0, id="equal"),
        pytest.param([3.0, 4.5], [3.0, 4.0], 0.1, id="half_of_five"),
        pytest.param([np.inf, 1.0], [np.inf, 1.0], 0.0, id="same_infinity"),
        pytest.param([np.nan, 1.0], [np.nan, 1.0], 0.0, id="same_nan"),
        pytest.param([np.nan, 1.0], [1.0, 1.0], np.inf, id="nan_in_one"),
        pytest.param([1.0, 1.0], [np.inf, 1.0], np.inf, id="infinity_in_one"),
        pytest.param([0.5, 0.0], [0.0, 0.0], 0.5, id="reference_is_zero"),
    ],
)
def test_relative_error(found, wanted, error):
    assert relative_error(np.array(found), np.array(wanted)) == pytest.approx(error)


@pytest.mark.parametrize(
    ("found", "wanted", "close"),
    [
        pytest.param([1.00005e-3], [1e-3], True, id="relative"),
        pytest.param([1.0004e-5], [1e-5], True, id="less_than_one_rounding_of_one"),
        pytest.param([1.0004], [1.0], False, id="wrong"),
        pytest.param([np.nan], [1e-9], False, id="nan_is_never_small"),
    ],
)
def test_closeness(found, wanted, close):
    limits = {"float32": 1e-4}
    assert is_close(np.array(found, "float32"), np.array(wanted, "float32"), limits) == close


def test_shapes_must_agree():
    assert not is_close(np.zeros((2, 1)), np.zeros(2), {"float64": 1.0})


def test_what_was_rounded_to_half_on_the_way_is_compared_as_half():
    nodes = [node("Softmax", "x", "h"), node("Cast", "h", "y", to=FLOAT), node("Relu", "z", "w")]
    found = coarsest_types(nodes, {"h": "float16", "y": "float32", "w": "float32"})
    assert found == {"h": "float16", "y": "float16", "w": "float32"}
    mine, reference = np.float32([1.0004]), np.float32([1.0])
    limits = {"float32": 1e-4, "float16": 1e-2}
    assert is_close(mine, reference, limits, found["y"])
    assert not is_close(mine, reference, limits, found["w"])
    whole = np.array([1]), np.array([2])
    assert not is_close(*whole, limits, found["y"])  # whole numbers stay equal
