"""What is left to TVM's importer: that it works, and how its failures read."""

import numpy as np
import pytest

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend import import_model
from hetero_tvm.frontend.converters import tvm_fallback
from tests.hetero_tvm.frontend.onnx_cases import check, merged, one, save


def test_operators_of_tvm(tmp_path):
    cases = {
        "cumsum": one("CumSum", {"x": [2, 5]}, {"a": np.int64(1)}),
        "topk": one("TopK", {"x": [2, 9]}, {"k": np.array([3])}, outputs="v i"),
        "trilu": one("Trilu", {"x": [4, 5]}, upper=0),
        "elements": one("GatherElements", {"x": [2, 4]}, {"i": np.array([[0, 1], [2, 3]])}, axis=1),
        "scatter": one(
            "ScatterND", {"x": [2, 4], "u": [2]}, {"i": np.array([[0, 1], [1, 3]])}, names="x i u"
        ),
        "lrn": one("LRN", {"x": [2, 4, 4, 4]}, size=3),
    }
    check(merged(cases), tmp_path)


def test_known_bad_converters_are_not_used():
    assert tvm_fallback.covers("CumSum")
    assert not tvm_fallback.covers("Attention")
    assert not tvm_fallback.covers("NoSuchOperator")


def test_a_failure_names_the_node(tmp_path, monkeypatch):
    class Refuses:
        @staticmethod
        def get_converter(_opset):
            def convert(*_args):
                raise RuntimeError("no such mode")

            return convert

    monkeypatch.setattr(tvm_fallback, "_table", lambda: {"CumSum": Refuses})
    proto = one("CumSum", {"x": [2, 5]}, {"a": np.int64(1)})
    with pytest.raises(BadInput, match=r"node 'y' \(CumSum\): TVM's importer refuses it: no such"):
        import_model(save(proto, tmp_path))
