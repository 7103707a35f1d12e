"""Whole regions as models: outputs given twice, inputs passed through, weights inside."""

import numpy as np
import onnx
import onnxruntime
import pytest
from tvm import relax

from relay_passes.npu_onnx import NotExpressible, region_to_onnx


def build(body, *shapes):
    """A region whose outputs are what `body(builder, *params)` returns."""
    builder = relax.BlockBuilder()
    params = [relax.Var(f"x{i}", relax.TensorType(s, "float32")) for i, s in enumerate(shapes)]
    with builder.function("region", params):
        with builder.dataflow():
            outputs = builder.emit_output(body(builder, *params))
        builder.emit_func_output(outputs)
    return builder.get()["region"]


def run(region, *inputs):
    model = region_to_onnx(region, half_inside=False)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert [i.name for i in session.get_inputs()] == [f"in{i}" for i in range(len(inputs))]
    return session.run(None, {f"in{i}": x for i, x in enumerate(inputs)})


def test_a_tensor_returned_twice():
    def body(builder, x):
        bent = builder.emit(relax.op.nn.relu(x))
        return relax.Tuple([bent, bent])

    x = np.array([-1.0, 2.0], "float32")
    for result in run(build(body, (2,)), x):
        np.testing.assert_array_equal(result, [0, 2])


def test_an_output_that_is_read_again():
    def body(builder, x):
        bent = builder.emit(relax.op.nn.relu(x))
        return relax.Tuple([bent, builder.emit(relax.op.add(bent, x))])

    bent, total = run(build(body, (2,)), np.array([-1.0, 2.0], "float32"))
    np.testing.assert_array_equal(bent, [0, 2])
    np.testing.assert_array_equal(total, [-1, 4])


def test_an_input_that_is_an_output():
    def body(builder, x):
        return relax.Tuple([x, builder.emit(relax.op.negative(x))])

    same, negated = run(build(body, (2,)), np.array([-1.0, 2.0], "float32"))
    np.testing.assert_array_equal(same, -negated)


def test_one_field_of_a_split():
    def body(builder, x):
        halves = builder.emit(relax.op.split(x, 2, axis=0))
        return builder.emit(relax.op.negative(builder.emit(relax.TupleGetItem(halves, 1))))

    (result,) = run(build(body, (4,)), np.arange(4, dtype="float32"))
    np.testing.assert_array_equal(result, [-2, -3])


def test_weights_that_nothing_reads_are_left_out():
    def body(builder, x):
        parameters = [relax.const(np.full(3, v, "float32")) for v in (1, 0, 0, 1)]
        norm = relax.op.nn.layer_norm(x, *parameters[:2], [-1], center=False, scale=False)
        return builder.emit(norm)

    model = region_to_onnx(build(body, (2, 3)), half_inside=False)
    read = {name for node in model.graph.node for name in node.input}
    assert {weight.name for weight in model.graph.initializer} <= read


def test_nested_tuples_are_refused():
    def body(builder, x):
        halves = builder.emit(relax.op.split(x, 2, axis=0))
        return relax.Tuple([halves, x])

    with pytest.raises(NotExpressible, match="not nested tuples"):
        region_to_onnx(build(body, (4,)), half_inside=False)
