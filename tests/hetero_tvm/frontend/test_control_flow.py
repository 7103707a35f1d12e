"""`If`, `Loop` and `Scan` written out, against ONNX Runtime."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend import import_model
from tests.hetero_tvm.frontend.onnx_cases import FLOAT, INT64, check, model, node, op_counts, save

BOOL = TensorProto.BOOL


def _graph(nodes, inputs, outputs, weights=None):
    return helper.make_graph(
        nodes,
        "body",
        [
            helper.make_tensor_value_info(name, kind, None if kind == FLOAT else [])
            for name, kind in inputs
        ],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()],
    )


def _branches(then_shape=(2, 3), other_shape=(2, 3)):
    """`n == 1 ? relu(x) * 2 : -x`; branches reshape to the given shapes."""

    def branch(nodes, shape):
        nodes = [*nodes, node("Reshape", "t shape", "r")]
        weights = {"shape": np.array(shape), "two": np.float32(2)}
        return _graph(nodes, [], [("r", FLOAT)], weights)

    then = branch([node("Relu", "x", "u"), node("Mul", "u two", "t")], then_shape)
    other = branch([node("Neg", "x", "t")], other_shape)
    nodes = [
        node("Equal", "n one", "c", name="compare"),
        node("If", "c", "y", name="choose", then_branch=then, else_branch=other),
    ]
    return model(nodes, {"x": [2, 3], "n": (INT64, [])}, "y", {"one": np.array(1)}, 18)


def test_both_branches_and_a_choice(tmp_path):
    imported = check(_branches(), tmp_path)
    counts = op_counts(imported)
    assert counts == {"equal": 1, "nn.relu": 1, "multiply": 1, "negative": 1, "where": 1}
    assert "choose" in imported.node_of.values()


def test_known_condition_leaves_one_branch(tmp_path):
    proto = _branches()
    del proto.graph.input[1]
    proto.graph.initializer.append(numpy_helper.from_array(np.array(1), "n"))
    assert op_counts(check(proto, tmp_path)) == {"nn.relu": 1, "multiply": 1}


def test_a_branch_that_cannot_run_is_left_out(tmp_path, caplog):
    imported = check(_branches(other_shape=(2, 4)), tmp_path)
    assert op_counts(imported) == {"nn.relu": 1, "multiply": 1}
    assert "its 'else' branch cannot run at these shapes" in caplog.text
    # The condition is gone, and random inputs still meet it.
    assert imported.ranges[1].values == (1,)


def test_shape_that_depends_on_the_condition_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"'choose' \(If\): the shape of output 0 depends on the"):
        import_model(save(_branches(other_shape=(3, 2)), tmp_path))


def test_both_branches_failing_is_refused(tmp_path):
    with pytest.raises(BadInput, match="does not fit its inputs"):
        import_model(save(_branches((5, 5), (7, 7)), tmp_path))


def test_loop(tmp_path):
    """Three times: total += x * i, and a row of totals."""
    body = _graph(
        [
            node("Cast", "i", "f", to=FLOAT),
            node("Mul", "x f", "p"),
            node("Add", "total p", "next"),
            node("Identity", "going", "still"),
            node("Identity", "next", "row"),
        ],
        [("i", INT64), ("going", BOOL), ("total", FLOAT)],
        [("still", BOOL), ("next", FLOAT), ("row", FLOAT)],
    )
    nodes = [node("Loop", "count yes x", "y rows", body=body)]
    weights = {"count": np.array(3), "yes": np.array(True)}
    proto = model(nodes, {"x": [2, 3]}, "y rows", weights, 18)
    assert set(op_counts(check(proto, tmp_path))) <= {"multiply", "add", "reshape", "concat"}


def test_loop_of_unknown_length_is_refused(tmp_path):
    body = _graph(
        [node("Identity", "going", "still"), node("Relu", "total", "next")],
        [("i", INT64), ("going", BOOL), ("total", FLOAT)],
        [("still", BOOL), ("next", FLOAT)],
    )
    nodes = [node("Loop", "n yes x", "y", name="loop", body=body)]
    proto = model(nodes, {"x": [2, 3], "n": (INT64, [])}, "y", {"yes": np.array(True)}, 18)
    with pytest.raises(BadInput, match=r"'loop' \(Loop: its course depends on the data\)"):
        import_model(save(proto, tmp_path))


@pytest.mark.parametrize("direction", [0, 1])
def test_scan(tmp_path, direction):
    body = _graph(
        [node("Add", "sum x", "next"), node("Relu", "next", "row")],
        [("sum", FLOAT), ("x", FLOAT)],
        [("next", FLOAT), ("row", FLOAT)],
    )
    attributes = {"num_scan_inputs": 1, "scan_input_directions": [direction]}
    nodes = [node("Scan", "start x", "end rows", body=body, **attributes)]
    weights = {"start": np.zeros(3, "float32")}
    check(model(nodes, {"x": [4, 3]}, "end rows", weights, 18), tmp_path)
