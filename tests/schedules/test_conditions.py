"""Truth values in vectors: selects, comparisons as numbers, stored masks."""

from __future__ import annotations

import numpy as np
import pytest
from on_gpu import normal, run
from tvm import relax, te, tirx

from schedules.conditions import scalar_conditions

_X, _Y = normal(1, 4, 32), normal(2, 4, 32)
_MASK = _X > 0.1
_INTS = (10 * _X).astype("int64")
op = relax.op


@pytest.mark.parametrize(
    ("build", "want", "arrays"),
    [
        pytest.param(op.where, np.where(_MASK, _X, _Y), [_MASK, _X, _Y], id="mask_per_element"),
        pytest.param(
            op.where,
            np.where(_MASK[:, :1], _X, _Y),
            [np.ascontiguousarray(_MASK[:, :1]), _X, _Y],
            id="mask_per_row_is_one_for_all_lanes",
        ),
        pytest.param(
            op.where, np.where(_MASK[:1], _X, _Y), [_MASK[:1], _X, _Y], id="mask_per_lane"
        ),
        pytest.param(
            lambda x, y: op.where(op.less(x, y), x, y),
            np.minimum(_X, _Y),
            [_X, _Y],
            id="comparison_in_the_kernel",
        ),
        pytest.param(
            lambda x, y, i: op.where(op.less(x, y), i, op.negative(i)),
            np.where(_X < _Y, _INTS, -_INTS),
            [_X, _Y, _INTS],
            id="condition_and_values_of_other_widths",
        ),
        pytest.param(
            lambda x, y: op.astype(op.less(x, y), "float32"),
            (_X < _Y).astype("float32"),
            [_X, _Y],
            id="comparison_as_a_number",
        ),
        pytest.param(op.less, _X < _Y, [_X, _Y], id="stored_comparison"),
        pytest.param(
            lambda m, n: op.logical_and(m, op.logical_not(n)),
            _MASK & ~(_X < _Y),
            [_MASK, _X < _Y],
            id="logic",
        ),
        pytest.param(
            lambda m: op.astype(m, "float32"), _MASK.astype("float32"), [_MASK], id="from_mask"
        ),
        pytest.param(lambda i: op.astype(i, "bool"), _INTS != 0, [_INTS], id="to_mask"),
        pytest.param(op.sign, np.sign(_X), [_X], id="sign"),
        pytest.param(
            lambda x: op.nn.leakyrelu(x, 0.1), np.where(_X > 0, _X, 0.1 * _X), [_X], id="leakyrelu"
        ),
        pytest.param(
            lambda x, m: op.where(m, op.matmul(x, relax.const(normal(3, 32, 32))), x),
            np.where(_MASK, _X @ normal(3, 32, 32), _X),
            [_X, _MASK],
            id="mask_after_a_product",
        ),
    ],
)
def test_numbers(build, want, arrays):
    np.testing.assert_allclose(run(build, *arrays), want, rtol=1e-5, atol=1e-5)


def test_no_select_and_no_number_from_a_comparison_is_left():
    a = te.placeholder((8,), name="a")
    chosen = te.compute((8,), lambda i: tirx.Select(a[i] > 0, a[i], (a[i] < -1).astype("float32")))
    text = scalar_conditions(te.create_prim_func([a, chosen])).script()
    assert "Select" not in text
    assert "Cast" not in text
    assert text.count("T.if_then_else") == 2
