"""Unrolled recurrent layers against ONNX Runtime."""

import numpy as np
import pytest

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend import import_model
from tests.hetero_tvm.frontend.onnx_cases import check, merged, one, randn, save

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
HIDDEN, WIDTH, BATCH, STEPS = 6, 5, 2, 4


def _layer(op, direction="forward", bias=True, outputs=None, **attributes):
    count, gates = (2 if direction == "bidirectional" else 1), GATES[op]
    weights = {"w": randn(count, gates * HIDDEN, WIDTH), "r": randn(count, gates * HIDDEN, HIDDEN)}
    names = "x w r"
    if bias:
        weights |= {"b": randn(count, 2 * gates * HIDDEN), "h": randn(count, BATCH, HIDDEN)}
        names += " b _ h"
        if op == "LSTM":
            weights |= {"c": randn(count, BATCH, HIDDEN), "p": randn(count, 3 * HIDDEN)}
            names += " c p"
    outputs = outputs or ("y yh yc" if op == "LSTM" else "y yh")
    return one(
        op,
        {"x": [STEPS, BATCH, WIDTH]},
        weights,
        14,
        outputs,
        names,
        hidden_size=HIDDEN,
        direction=direction,
        **attributes,
    )


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_layers(tmp_path, direction):
    cases = {op: _layer(op, direction) for op in GATES}
    cases["gru_reset_after"] = _layer("GRU", direction, linear_before_reset=1)
    check(merged(cases), tmp_path)


def test_without_bias_or_state(tmp_path):
    cases = {op: _layer(op, bias=False, outputs="_ yh") for op in GATES}
    check(merged(cases), tmp_path)


def test_other_activations(tmp_path):
    check(_layer("LSTM", activations=["Sigmoid", "Softsign", "Relu"]), tmp_path)


def test_lengths_that_are_all_the_same_change_nothing(tmp_path):
    weights = {
        "w": randn(1, HIDDEN, WIDTH),
        "r": randn(1, HIDDEN, HIDDEN),
        "n": np.full(BATCH, STEPS, "int32"),
    }
    proto = one(
        "RNN", {"x": [STEPS, BATCH, WIDTH]}, weights, 14, names="x w r _ n", hidden_size=HIDDEN
    )
    check(proto, tmp_path)


def test_clipping_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"cannot be imported: 'y' \(LSTM\)"):
        import_model(save(_layer("LSTM", clip=1.0), tmp_path))
