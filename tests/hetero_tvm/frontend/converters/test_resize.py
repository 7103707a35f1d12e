"""Every way to resize, against ONNX Runtime."""

import numpy as np
import pytest

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend import import_model
from tests.hetero_tvm.frontend.onnx_cases import check, merged, one, op_counts, save


def _resize(shape, *, scales=None, sizes=None, opset=18, **attributes):
    weights, names = {}, "x _ _"
    if scales is not None:
        weights["s"] = np.array(scales, "float32")
        names = "x _ s"
    if sizes is not None:
        weights["z"] = np.array(sizes)
        names = "x _ _ z"
    return one("Resize", {"x": shape}, weights, opset, names=names, **attributes)


def test_whole_factors_are_one_plain_operator(tmp_path):
    shape, double = [1, 2, 4, 5], [1, 1, 2, 2]
    floor = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    cases = {
        "default": _resize(shape, scales=double, mode="nearest"),
        "ceil": _resize(shape, scales=double, mode="nearest", nearest_mode="round_prefer_ceil"),
        "floor": _resize(shape, scales=[1, 1, 2, 3], mode="nearest", **floor),
    }
    assert op_counts(check(merged(cases), tmp_path, tolerance=0)) == {"image.resize2d": 3}


def test_odd_factors_and_other_ranks_are_look_ups(tmp_path):
    cases = {
        "odd": _resize([1, 2, 4, 5], sizes=[1, 2, 7, 3], mode="nearest"),
        "ceil": _resize([1, 2, 4, 5], sizes=[1, 2, 7, 3], mode="nearest", nearest_mode="ceil"),
        "rank3": _resize([2, 4, 5], scales=[1, 1, 2], mode="nearest"),
    }
    assert set(op_counts(check(merged(cases), tmp_path, tolerance=0))) == {"take"}


def test_interpolation_that_relax_shares(tmp_path):
    sizes = [1, 2, 8, 11]
    cases = {
        f"{mode}_{how}": _resize(
            [1, 2, 4, 5], sizes=sizes, mode=mode, coordinate_transformation_mode=how
        )
        for mode in ("linear", "cubic")
        for how in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
    }
    assert op_counts(check(merged(cases), tmp_path)) == {"image.resize2d": len(cases)}


def test_interpolation_that_only_a_matrix_gets_right(tmp_path):
    shape = [1, 2, 7, 9]
    cases = {
        "scale_is_not_the_ratio": _resize(shape, scales=[1, 1, 0.6, 0.7], mode="linear"),
        "exclude_outside": _resize(shape, sizes=[1, 2, 14, 20], mode="cubic", exclude_outside=1),
        "one_pixel": _resize(
            shape,
            sizes=[1, 2, 1, 4],
            mode="linear",
            coordinate_transformation_mode="pytorch_half_pixel",
        ),
        "rank3": _resize([2, 3, 5], sizes=[2, 3, 9], mode="linear"),
    }
    counts = op_counts(check(merged(cases), tmp_path))
    assert counts["matmul"] == 7
    assert "image.resize2d" not in counts


def test_upsample(tmp_path):
    weights = {"s": np.array([1, 1, 2, 3], "float32")}
    check(one("Upsample", {"x": [1, 2, 3, 4]}, weights, opset=9), tmp_path, tolerance=0)


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"antialias": 1}, "antialias is not covered"),
        ({"sizes": [1, 2, 4, 2**27]}, "resizing 8 to 134217728 takes too large a table"),
        ({"keep_aspect_ratio_policy": "not_larger"}, "keep_aspect_ratio_policy is not covered"),
    ],
)
def test_refusals(tmp_path, attributes, text):
    given = {"sizes": [1, 2, 4, 4], "mode": "cubic", **attributes}
    proto = _resize([1, 2, 8, 8], **given)
    with pytest.raises(BadInput, match=text):
        import_model(save(proto, tmp_path))
