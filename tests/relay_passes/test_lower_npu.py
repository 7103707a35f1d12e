"""Regions become calls of the runtime's functions and small ONNX models."""

# ruff: noqa: N805  (modules are written as classes, their functions are no methods)

import numpy as np
import onnx
import onnxruntime
import pytest
from tvm import relax
from tvm.ir import assert_structural_equal
from tvm.script import ir as I
from tvm.script import relax as R

from relay_passes.lower_npu import TensorSpec, lower_npu
from relay_passes.npu_onnx import NotExpressible
from target_specs.loader import load_spec

HOST = load_spec("host").npu


@I.ir_module
class Before:
    @R.function
    def npu_region_0(x: R.Tensor((3, 4), "float32"), y: R.Tensor((3, 4), "float32")) -> R.Tuple(
        R.Tensor((3, 4), "float32"), R.Tensor((4, 3), "float32")
    ):
        R.func_attr({"Codegen": "hetero_npu"})
        with R.dataflow():
            total = R.add(x, y)
            turned = R.permute_dims(total)
            bent = R.nn.relu(total)
            out = (bent, turned)
            R.output(out)
        return out

    @R.function
    def npu_region_1(x: R.Tensor((3, 4), "float32")) -> R.Tensor((3, 4), "float32"):
        R.func_attr({"Codegen": "hetero_npu"})
        with R.dataflow():
            out = R.multiply(x, R.const(2.0, "float32"))
            R.output(out)
        return out

    @R.function
    def main(
        x: R.Tensor((3, 4), "float32"),
    ) -> R.Tuple(R.Tensor((3, 4), "float32"), R.Tensor((4, 3), "float32")):
        cls = Before
        with R.dataflow():
            once = cls.npu_region_1(x)
            twice = cls.npu_region_1(once)
            both = cls.npu_region_0(once, twice)
            left = both[0]
            right = both[1]
            summed = R.subtract(left, x)
            out = (summed, right)
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor((3, 4), "float32"),
    ) -> R.Tuple(R.Tensor((3, 4), "float32"), R.Tensor((4, 3), "float32")):
        with R.dataflow():
            once = R.call_dps_packed("npu_region_1", (x,), out_ty=R.Tensor((3, 4), "float32"))
            twice = R.call_dps_packed("npu_region_1", (once,), out_ty=R.Tensor((3, 4), "float32"))
            both = R.call_dps_packed(
                "npu_region_0",
                (once, twice),
                out_ty=[R.Tensor((3, 4), "float32"), R.Tensor((4, 3), "float32")],
            )
            left = both[0]
            right = both[1]
            summed = R.subtract(left, x)
            out = (summed, right)
            R.output(out)
        return out


def run(region, *inputs):
    session = onnxruntime.InferenceSession(region.onnx, providers=["CPUExecutionProvider"])
    return session.run(None, {spec.name: x for spec, x in zip(region.inputs, inputs, strict=True)})


def test_calls_become_packed_calls_and_functions_go():
    mod, regions = lower_npu(Before, HOST)
    assert_structural_equal(mod, Expected)
    assert relax.analysis.check_well_formed(mod)
    assert [region.symbol for region in regions] == ["npu_region_0", "npu_region_1"]


def test_binding_names_survive():
    mod, _ = lower_npu(Before, HOST)
    names = [binding.var.name for binding in mod["main"].body.blocks[0].bindings]
    assert names == ["once", "twice", "both", "left", "right", "summed", "out"]


def test_regions_say_what_goes_in_and_out():
    _, (first, second) = lower_npu(Before, HOST)
    assert first.inputs == (
        TensorSpec("in0", "float32", (3, 4)),
        TensorSpec("in1", "float32", (3, 4)),
    )
    assert first.outputs == (
        TensorSpec("out0", "float32", (3, 4)),
        TensorSpec("out1", "float32", (4, 3)),
    )
    assert first.ops == ("relax.add", "relax.permute_dims", "relax.nn.relu")
    assert len(second.inputs) == len(second.outputs) == 1


def test_regions_compute_what_they_did():
    _, (first, second) = lower_npu(Before, HOST)
    x, y = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("float32")
    relu, turned = run(first, x, y)
    np.testing.assert_array_equal(relu, np.maximum(x + y, 0))
    np.testing.assert_array_equal(turned, (x + y).T)
    np.testing.assert_array_equal(run(second, x)[0], x * 2)


def test_weights_are_inside_the_model():
    _, (_, second) = lower_npu(Before, HOST)
    (weight,) = onnx.load_from_string(second.onnx).graph.initializer
    assert onnx.numpy_helper.to_array(weight) == 2.0


def test_equal_modules_give_equal_bytes():
    assert lower_npu(Before, HOST)[1] == lower_npu(Before, HOST)[1]


def test_regions_sort_by_number():
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2,), "float32"))
    for index, op in ((10, relax.op.nn.relu), (2, relax.op.tanh)):
        region = one_region(op, f"npu_region_{index}")
        var = builder.add_func(region, f"f{index}")
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(builder.emit(relax.Call(var, [x])))
        builder.emit_func_output(out)
    _, regions = lower_npu(builder.get(), HOST)
    assert [region.symbol for region in regions] == ["npu_region_2", "npu_region_10"]


def one_region(op, symbol, shape=(2,)):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function(symbol, [x], attrs={"Codegen": "hetero_npu"}):
        with builder.dataflow():
            out = builder.emit_output(op(x))
        builder.emit_func_output(out)
    return builder.get()[symbol]


def test_products_are_written_in_the_form_that_is_asked_for():
    weight = relax.const(np.random.default_rng(1).standard_normal((4, 5)).astype("float32"))
    region = one_region(lambda x: relax.op.matmul(x, weight), "npu_region_0", (3, 4))
    x = relax.Var("x", relax.TensorType((3, 4), "float32"))
    builder = relax.BlockBuilder()
    var = builder.add_func(region, "f")
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(builder.emit(relax.Call(var, [x])))
        builder.emit_func_output(out)
    asked = []

    def form(call):
        asked.append(call.op.name)
        return "swapped"

    _, (swapped,) = lower_npu(builder.get(), HOST, form)
    _, (plain,) = lower_npu(builder.get(), HOST)
    assert asked == ["relax.matmul"]
    assert swapped.onnx != plain.onnx
    data = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
    np.testing.assert_allclose(run(swapped, data)[0], run(plain, data)[0], rtol=1e-5, atol=1e-6)


def test_a_module_without_regions_is_left_alone():
    mod, regions = lower_npu(Expected, HOST)
    assert mod.same_as(Expected)
    assert regions == ()


def test_an_operator_without_an_emitter_is_named():
    builder = relax.BlockBuilder()
    builder.add_func(one_region(relax.op.cosh, "npu_region_0"), "f")
    with pytest.raises(NotExpressible, match=r"no ONNX form for relax\.cosh"):
        lower_npu(builder.get(), HOST)
