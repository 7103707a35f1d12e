"""Elementwise operators against ONNX Runtime."""

import numpy as np
import pytest

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend import import_model
from tests.hetero_tvm.frontend.onnx_cases import (
    FLOAT,
    check,
    merged,
    model,
    node,
    one,
    op_counts,
    randn,
    save,
)

UNARY = """
Relu Sigmoid Tanh Exp Neg Abs Floor Ceil Round Erf Sin Cos Sign Reciprocal HardSwish Elu Celu Selu
Softplus Softsign Mish LeakyRelu ThresholdedRelu Sinh Cosh
""".split()


def test_unary_operators(tmp_path):
    check(merged({op: one(op, {"x": [2, 3, 8]}, opset=18) for op in UNARY}), tmp_path)


def test_binary_and_variadic_operators(tmp_path):
    cases = {}
    for op in "Add Sub Mul Div Pow Less LessOrEqual Greater Equal Min Max Sum Mean".split():
        nodes = [node("Abs", "x", "p"), node(op, "p b", "y")]
        cases[op] = model(nodes, {"x": [2, 3, 8], "b": [8]}, "y", opset=18)
    for op in ("Min", "Max", "Sum", "Mean"):
        cases[f"{op}3"] = one(op, {"a": [2, 8], "b": [8], "c": [2, 1]}, opset=18)
    check(merged(cases), tmp_path)


def test_infinities_of_one_sign(tmp_path):
    ends = np.array([np.inf, -np.inf, 1, np.nan], dtype="float32")
    cases = {
        f"{high}{low}": model(
            [
                node("Add", "x ends", "s"),
                node("IsInf", "s", "y", detect_positive=high, detect_negative=low),
            ],
            {"x": [2, 4]},
            "y",
            {"ends": ends},
            opset=18,
        )
        for high in (0, 1)
        for low in (0, 1)
    }
    check(merged(cases), tmp_path, tolerance=0)


def test_integer_division_truncates(tmp_path):
    x = np.array([-7, 7, -8, 8, -1, 0], "int64")
    nodes = [node("Add", "i x", "v"), node("Div", "v d", "y")]
    proto = model(nodes, {"i": (7, [6])}, "y", {"x": x, "d": np.array(-2)}, opset=18)
    check(proto, tmp_path, tolerance=0)


def test_powers_become_products_and_roots(tmp_path):
    nodes = [
        node("Abs", "x", "p"),
        node("Pow", "p two", "a"),
        node("Pow", "p half", "b"),
        node("Pow", "p three", "c"),
    ]
    weights = {"two": np.float32(2), "half": np.float32(0.5), "three": np.int64(3)}
    imported = check(model(nodes, {"x": [2, 8]}, "a b c", weights), tmp_path)
    assert op_counts(imported) == {"abs": 1, "multiply": 1, "sqrt": 1, "power": 1}


@pytest.mark.parametrize(
    ("low", "high", "op"),
    [
        pytest.param(0.0, 6.0, "clip", id="both"),
        pytest.param(None, 0.5, "minimum", id="upper_only"),
        pytest.param(-0.5, None, "maximum", id="lower_only"),
        pytest.param(-0.5, 3.4028234663852886e38, "maximum", id="upper_is_no_bound"),
    ],
)
def test_clip_is_one_operator(tmp_path, low, high, op):
    weights = {n: np.float32(v) for n, v in (("lo", low), ("hi", high)) if v is not None}
    names = f"x {'lo' if low is not None else '_'} {'hi' if high is not None else '_'}"
    proto = one("Clip", {"x": [2, 8]}, weights, names=names)
    assert op_counts(check(proto, tmp_path)) == {op: 1}


def test_clip_with_computed_bounds(tmp_path):
    check(one("Clip", {"x": [2, 8], "lo": [], "hi": []}), tmp_path)


def test_casts(tmp_path):
    nodes = [
        node("Cast", "x", "b", to=9),
        node("Cast", "b", "y", to=FLOAT),
        node("Mul", "x ten", "t"),
        node("Cast", "t", "z", to=7),
    ]
    check(model(nodes, {"x": [2, 8]}, "b y z", {"ten": np.float32(10)}), tmp_path)


def test_gelu_forms_are_operators(tmp_path):
    cases = {
        "exact": one("Gelu", {"x": [4]}, opset=20),
        "tanh": one("Gelu", {"x": [4]}, opset=20, approximate="tanh"),
    }
    assert op_counts(check(merged(cases), tmp_path)) == {"nn.gelu": 1, "nn.gelu_tanh": 1}


def test_prelu_and_where(tmp_path):
    cases = {
        "prelu": one("PRelu", {"x": [2, 3, 4]}, {"slope": randn(3, 1)}),
        "where": model(
            [node("Greater", "x z", "c"), node("Where", "c x z", "y")],
            {"x": [4, 5]},
            "y",
            {"z": np.float32(0.3)},
        ),
    }
    check(merged(cases), tmp_path)


def test_unknown_operator_is_refused(tmp_path):
    proto = one("Bernoulli", {"x": [4]}, opset=18)
    with pytest.raises(
        BadInput,
        match=r"1 node cannot be imported: 'y' \(Bernoulli, which is made of RandomUniformLike\)",
    ):
        import_model(save(proto, tmp_path))
