"""Reductions, softmax and normalisations against ONNX Runtime."""

import numpy as np
import pytest

from tests.hetero_tvm.frontend.onnx_cases import (
    check,
    merged,
    model,
    node,
    one,
    op_counts,
    randn,
)

REDUCTIONS = """
ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum
ReduceLogSumExp
""".split()


@pytest.mark.parametrize("opset", [11, 18])
def test_reductions(tmp_path, opset):
    cases = {}
    for op in REDUCTIONS:
        if opset == 18:
            reduce = node(op, "e axes", "y", keepdims=0)
        else:
            reduce = node(op, "e", "y", axes=[1, -1])
        weights = {"axes": np.array([1, -1])} if opset == 18 else None
        nodes = [node("Exp", "x", "e"), reduce]
        cases[op] = model(nodes, {"x": [2, 3, 4, 5]}, "y", weights, opset)
    check(merged(cases), tmp_path)


def test_no_axes_means_all_or_none(tmp_path):
    cases = {
        "all": one("ReduceSum", {"x": [2, 3]}, opset=13),
        "none": one("ReduceSum", {"x": [2, 3]}, opset=13, noop_with_empty_axes=1),
    }
    check(merged(cases), tmp_path)


@pytest.mark.parametrize(
    ("axis", "opset"),
    [
        pytest.param(1, 11, id="old_flattens"),
        pytest.param(0, 11, id="old_flattens_all"),
        pytest.param(-1, 11, id="old_last"),
        pytest.param(1, 13, id="new_one_axis"),
    ],
)
def test_softmax(tmp_path, axis, opset):
    cases = {
        op: one(op, {"x": [2, 3, 4]}, opset=opset, axis=axis) for op in ("Softmax", "LogSoftmax")
    }
    check(merged(cases), tmp_path)


def test_layer_normalisation_is_one_operator(tmp_path):
    cases = {
        "last": one("LayerNormalization", {"x": [2, 3, 4]}, {"g": randn(4), "b": randn(4)}),
        "two_axes": one("LayerNormalization", {"x": [2, 3, 4]}, {"g": randn(3, 4)}, axis=1),
    }
    assert op_counts(check(merged(cases), tmp_path)) == {"nn.layer_norm": 2}


def test_other_normalisations(tmp_path):
    cases = {
        "instance": one(
            "InstanceNormalization", {"x": [2, 3, 4, 4]}, {"g": randn(3), "b": randn(3)}, opset=23
        ),
        "rms": one("RMSNormalization", {"x": [2, 3, 8]}, {"g": randn(8)}, opset=23),
    }
    check(merged(cases), tmp_path)


def test_arg_reductions(tmp_path):
    cases = {op: one(op, {"x": [2, 3, 4]}, axis=1, keepdims=0) for op in ("ArgMax", "ArgMin")}
    check(merged(cases), tmp_path, tolerance=0)


def test_the_last_of_equal_values(tmp_path):
    """Rounded to few values, so that many are equal."""
    cases = {}
    for op in ("ArgMax", "ArgMin"):
        nodes = [
            node("Round", "x", "few"),
            node(op, "few", "y", axis=1, keepdims=0, select_last_index=1),
        ]
        cases[op] = model(nodes, {"x": [2, 9, 4]}, "y")
    check(merged(cases), tmp_path, tolerance=0)
