"""Every form of a product gives the same numbers; the one for HTP is what its compiler prefers."""

import importlib.util

import npu_numbers
import numpy as np
import onnx
import onnxruntime
import pytest
from tvm import relax

from relay_passes.npu_onnx import BlockCodes, emit_region, htp_form, product, region_to_onnx
from schedules.npu_estimate import estimate_models
from schedules.w4a16 import W4Weight
from target_specs.loader import load_spec

_FORMS = {
    "as_written": ["MatMul"],
    "swapped": ["Transpose", "MatMul", "Transpose"],
    "by_columns": ["FusedMatMul"],
    "convolution": ["Reshape", "Transpose", "Conv", "Transpose", "Reshape"],
}


def _region(left, right, *, constant=True):
    """A product, and a bias and an activation behind it."""
    weight = np.random.default_rng(1).standard_normal(right).astype("float32")
    x = relax.Var("x", relax.TensorType(left, "float32"))
    w = relax.const(weight) if constant else relax.Var("w", relax.TensorType(right, "float32"))
    builder = relax.BlockBuilder()
    with builder.function("region", [x] if constant else [x, w]):
        with builder.dataflow():
            sums = builder.emit(relax.op.matmul(x, w))
            bias = relax.const(np.arange(right[-1], dtype="float32"))
            result = builder.emit_output(relax.op.nn.relu(builder.emit(relax.op.add(sums, bias))))
        builder.emit_func_output(result)
    return builder.get()["region"], weight


def _call(left, right, *, constant=True):
    region, _ = _region(left, right, constant=constant)
    return region.body.blocks[0].bindings[0].value


@pytest.mark.parametrize("case", npu_numbers.cases_of(product), ids=lambda case: case.name)
def test_same_numbers_as_tvm(case):
    npu_numbers.check(case)


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("left", [(24, 40), (1, 7, 40), (1, 1, 33, 40)])
def test_forms_give_the_same_numbers(form, left):
    region, weight = _region(left, (40, 24))
    model = region_to_onnx(region, half_inside=False, product_form=lambda call: form)
    own = all(node.domain == "" for node in model.graph.node)  # of ONNX Runtime's it knows nothing
    onnx.checker.check_model(model, full_check=own)
    assert [node.op_type for node in model.graph.node[: len(_FORMS[form])]] == _FORMS[form]
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(2).standard_normal(left).astype("float32")
    (got,) = session.run(None, {"in0": x})
    want = np.maximum(x.astype("float64") @ weight + np.arange(24), 0)
    assert got.shape == want.shape
    # float32 sums of 40 products, in another order
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zero_points"])
@pytest.mark.parametrize(("group", "bits"), [(16, 4), (32, 4), (32, 8)])
@pytest.mark.parametrize("left", [(24, 64), (1, 7, 64), (1, 1, 33, 64)])
def test_codes_on_onnx_runtime(left, group, bits, zeros):
    """Without the rounding of activations that ONNX Runtime's default allows itself."""
    region, _ = _region(left, (64, 24))
    rng = np.random.default_rng()
    blocks = 64 // group
    weight = W4Weight(
        codes=rng.integers(0, 1 << bits, (64, 24)).astype(np.uint8),
        scales=rng.random((blocks, 24), dtype=np.float32),
        zeros=rng.integers(0, 1 << bits, (blocks, 24)).astype(np.uint8) if zeros else None,
        group=group,
        bits=bits,
    )
    codes, scales, points = weight.to_blocks()
    form = BlockCodes(codes=codes, scales=scales, zeros=points, bits=bits)
    model = region_to_onnx(region, half_inside=False, product_form=lambda call: form)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = rng.standard_normal(left, dtype=np.float32)
    (got,) = session.run(None, {"in0": x})
    sums = x.astype("float64") @ weight.dequantised()
    assert got.shape == sums.shape
    # float32 sums of 64 products; eight bits would be off by 1/255 of the largest, 3e-3
    np.testing.assert_allclose(
        got, np.maximum(sums + np.arange(24), 0), atol=2e-6 * abs(sums).max()
    )


def test_large_weights_lie_outside_by_their_columns():
    region, weight = _region((24, 40), (40, 24))
    taken = []

    def keep(array):
        taken.append(np.array(array, order="C"))
        return 7

    model, _, outside = emit_region(
        region, half_inside=False, product_form=lambda call: "by_columns", keep=keep
    )
    (one,) = outside
    assert (one.dtype, one.shape, one.number) == ("float32", (24, 40), 7)
    np.testing.assert_array_equal(taken, [weight.T])  # the weight as it is written is not asked for
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == one.name]
    assert not tensor.raw_data
    assert len(model.SerializeToString()) < weight.nbytes
    options = onnxruntime.SessionOptions()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(taken[0])
    options.add_external_initializers([one.name], [value])
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(2).standard_normal((24, 40)).astype("float32")
    want = np.maximum(x.astype("float64") @ weight + np.arange(24), 0)
    np.testing.assert_allclose(session.run(None, {"in0": x})[0], want, atol=2e-5)


@pytest.mark.parametrize(
    ("left", "right", "constant"),
    [
        pytest.param((32, 40), (40, 24), False, id="two_activations"),
        pytest.param((3, 32, 40), (40, 24), True, id="a_batch_of_rows"),
        pytest.param((3, 32, 40), (3, 40, 24), True, id="a_batch_of_weights"),
        pytest.param((40,), (40, 24), True, id="a_vector"),
    ],
)
def test_other_products_are_as_written(left, right, constant):
    region, _ = _region(left, right, constant=constant)
    model = region_to_onnx(region, half_inside=False, product_form=lambda call: "convolution")
    assert model.graph.node[0].op_type == "MatMul"


@pytest.mark.parametrize(
    ("rows", "form"),
    [
        (1, "as_written"),
        (16, "as_written"),
        (24, "convolution"),
        (31, "as_written"),
        (32, "convolution"),
        (33, "as_written"),
        (128, "as_written"),
    ],
)
def test_the_form_for_htp(rows, form):
    assert htp_form(_call((1, rows, 40), (40, 24))) == form


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None,
    reason="onnxruntime-qnn is not installed (pip install 'hetero-tvm[qnn]')",
)
def test_the_vendor_prefers_a_convolution_at_32_rows():
    """Why `htp_form` says so: 115 and 89 us on the proxy when this was written."""
    region, _ = _region((32, 1024), (1024, 1024))
    models = {
        "as_written": region_to_onnx(region, half_inside=True).SerializeToString(),
        "chosen": region_to_onnx(
            region, half_inside=True, product_form=htp_form
        ).SerializeToString(),
    }
    npu = load_spec("snapdragon-8-gen-3").npu
    estimates = estimate_models(models, npu, cache_dir=None)
    assert estimates["chosen"].us < 0.85 * estimates["as_written"].us
