"""Operators that move values, against ONNX Runtime, and how few Relax operators they become."""

import numpy as np
import pytest

from hetero_tvm.errors import BadInput, UnsupportedModel
from hetero_tvm.frontend import import_model
from tests.hetero_tvm.frontend.onnx_cases import (
    INT64,
    check,
    merged,
    model,
    node,
    one,
    op_counts,
    randn,
    save,
)

# Nothing is computed, so nothing may differ.
EXACT = 0.0


def test_moves(tmp_path):
    cases = {
        "transpose": one("Transpose", {"x": [2, 3, 4]}, perm=[2, 0, 1]),
        "transpose_default": one("Transpose", {"x": [2, 3]}),
        "concat": one("Concat", {"a": [2, 3], "b": [2, 1]}, axis=-1),
        "expand": one("Expand", {"x": [2, 1]}, {"s": np.array([4, 2, 3])}),
        "tile": one("Tile", {"x": [2, 3]}, {"r": np.array([2, 3])}),
        "split": one("Split", {"x": [2, 7]}, {"s": np.array([3, 4])}, outputs="a b", axis=1),
        "depth": one("DepthToSpace", {"x": [1, 8, 3, 4]}, blocksize=2, mode="CRD"),
        "depth_dcr": one("DepthToSpace", {"x": [1, 8, 3, 4]}, blocksize=2),
        "space": one("SpaceToDepth", {"x": [1, 2, 4, 6]}, blocksize=2),
    }
    check(merged(cases), tmp_path, tolerance=EXACT)


def test_slices(tmp_path):
    def bounds(starts, ends, axes, steps):
        arrays = (starts, ends, axes, steps)
        return {k: np.array(v) for k, v in zip("seat", arrays, strict=True)}

    cases = {
        "forward": one("Slice", {"x": [4, 6]}, bounds([1, 0], [3, 99], [0, 1], [1, 2])),
        "from_end": one("Slice", {"x": [4, 6]}, bounds([-3], [-1], [1], [1])),
        "backward": one("Slice", {"x": [4, 6]}, bounds([-1], [-100], [1], [-2])),
    }
    imported = check(merged(cases), tmp_path, tolerance=EXACT)
    assert op_counts(imported) == {"strided_slice": 2, "take": 1}


def test_old_slice_keeps_bounds_in_attributes(tmp_path):
    proto = one("Slice", {"x": [4, 6]}, opset=9, starts=[1], ends=[3], axes=[1])
    check(proto, tmp_path, tolerance=EXACT)


@pytest.mark.parametrize(
    ("index", "ops"),
    [
        pytest.param(-1, {"strided_slice": 1, "reshape": 1}, id="negative_scalar"),
        pytest.param([1, 2], {"strided_slice": 1}, id="neighbours"),
        pytest.param([-1, 0, 2], {"take": 1}, id="any_order"),
        pytest.param([[0, 3], [1, -2]], {"take": 1}, id="matrix"),
    ],
)
def test_gather_by_known_indices(tmp_path, index, ops):
    proto = one("Gather", {"x": [2, 4, 3]}, {"i": np.array(index)}, axis=1)
    assert op_counts(check(proto, tmp_path, tolerance=EXACT)) == ops


def test_gather_by_unknown_indices_is_a_bare_take(tmp_path):
    proto = one("Gather", {"i": (INT64, [2, 4])}, {"table": randn(7, 3)}, names="table i")
    imported = check(proto, tmp_path, tolerance=EXACT)
    assert op_counts(imported) == {"take": 1}


def test_unknown_negative_indices_count_from_the_end(tmp_path):
    nodes = [node("Sub", "i five", "n"), node("Gather", "table n", "y")]
    weights = {"table": randn(5, 3), "five": np.array(5)}
    proto = model(nodes, {"i": (INT64, [4])}, "y", weights)  # drawn as 0 and 1: -5 and -4
    check(proto, tmp_path, tolerance=EXACT)


def test_gather_outside_the_table_is_refused(tmp_path):
    proto = one("Gather", {"x": [2, 4]}, {"i": np.array([7])}, axis=1)
    with pytest.raises(BadInput, match="index 7 is outside the axis of 4"):
        import_model(save(proto, tmp_path), check=False)


def test_one_hot(tmp_path):
    weights = {"depth": np.int64(5), "values": np.array([0.5, 2.0], "float32")}
    nodes = [node("Sub", "i two", "n"), node("OneHot", "n depth values", "y", axis=0)]
    proto = model(nodes, {"i": (INT64, [4])}, "y", {**weights, "two": np.array(2)})
    check(proto, tmp_path, tolerance=EXACT)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_padding(tmp_path, mode):
    pads = {"p": np.array([0, 0, 1, 2, 0, 0, 2, 0])}
    proto = one("Pad", {"x": [2, 3, 4, 5]}, pads, opset=18, mode=mode)
    imported = check(proto, tmp_path, tolerance=EXACT)
    assert op_counts(imported) == ({"nn.pad": 1} if mode == "constant" else {"take": 2})


def test_padding_wraps(tmp_path):
    proto = one("Pad", {"x": [2, 3]}, {"p": np.array([0, 2, 0, 4])}, opset=19, mode="wrap")
    check(proto, tmp_path, tolerance=EXACT)


def test_padding_that_cuts_off_more_than_there_is_is_refused(tmp_path):
    proto = one("Pad", {"x": [2, 3]}, {"p": np.array([0, 2**53 + 1, 0, -(2**53)])}, opset=18)
    with pytest.raises(UnsupportedModel, match="it cuts off more than there is"):
        check(proto, tmp_path)


def test_negative_padding_crops_and_integers_stay_exact(tmp_path):
    large = np.int64(2**60 + 1)  # not a float
    cases = {
        "crop": one("Pad", {"x": [4, 5]}, {"p": np.array([-1, 2, 0, -1])}, opset=18),
        "whole": model(
            [node("Pad", "x p v", "y")],
            {"x": (INT64, [4, 5])},
            "y",
            {"p": np.array([1, 0, 0, 2]), "v": large},
            opset=18,
        ),
    }
    check(merged(cases), tmp_path, tolerance=EXACT)
