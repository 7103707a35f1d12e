"""Convolutions of any geometry are right on the device, compared with ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_gpu import assert_close, kernels, lower, module, normal, run
from onnx import TensorProto, helper
from tvm import relax

# float32 sums of up to some thousand products, in another order.
_TOLERANCE = 2e-5


def _reference(op: str, x: np.ndarray, weight: np.ndarray, **attrs: object) -> np.ndarray:
    node = helper.make_node(op, ["x", "w"], ["y"], **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x})[0]


@settings(max_examples=15, deadline=None)
@given(
    groups=st.sampled_from([1, 1, 2, 3]),
    group_in=st.integers(1, 9),
    group_out=st.integers(1, 20),
    size=st.tuples(st.integers(5, 14), st.integers(5, 14)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_conv2d(groups, group_in, group_out, size, kernel, stride, dilation, padding):
    kernel = tuple(min(k, (s - 1) // dilation + 1) for k, s in zip(kernel, size, strict=True))
    x = normal(1, 2, groups * group_in, *size)
    weight = normal(2, groups * group_out, group_in, *kernel)

    def build(v):
        return relax.op.nn.conv2d(
            v,
            relax.const(weight),
            strides=[stride, stride],
            padding=list(padding),
            dilation=[dilation, dilation],
            groups=groups,
        )

    want = _reference(
        "Conv",
        x,
        weight,
        strides=[stride] * 2,
        pads=list(padding),
        dilations=[dilation] * 2,
        group=groups,
    )
    assert_close(run(build, x), want, _TOLERANCE)


@settings(max_examples=8, deadline=None)
@given(
    channels=st.integers(1, 40),
    size=st.tuples(st.integers(4, 15), st.integers(4, 15)),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 2),
    pad=st.integers(0, 2),
)
def test_depthwise(channels, size, kernel, stride, pad):
    x, weight = normal(3, 1, channels, *size), normal(4, channels, 1, kernel, kernel)

    def build(v):
        options = {"strides": [stride] * 2, "padding": [pad] * 4, "groups": channels}
        return relax.op.nn.relu(relax.op.nn.conv2d(v, relax.const(weight), **options))

    want = _reference("Conv", x, weight, strides=[stride] * 2, pads=[pad] * 4, group=channels)
    assert_close(run(build, x), np.maximum(want, 0), _TOLERANCE)


@settings(max_examples=10, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    extra=st.booleans(),
)
def test_transposed(channels, size, kernel, stride, extra):
    pad = min(kernel) // 2
    output_padding = int(extra and stride > 1)
    x, weight = normal(5, 1, channels[0], *size), normal(6, channels[0], channels[1], *kernel)
    if any(
        (s - 1) * stride + k - 2 * pad + output_padding < 1
        for s, k in zip(size, kernel, strict=True)
    ):
        return  # no pixel left

    def build(v):
        return relax.op.nn.conv2d_transpose(
            v,
            relax.const(weight),
            strides=[stride] * 2,
            padding=[pad] * 4,
            output_padding=[output_padding] * 2,
        )

    want = _reference(
        "ConvTranspose",
        x,
        weight,
        strides=[stride] * 2,
        pads=[pad] * 4,
        output_padding=[output_padding] * 2,
    )
    assert_close(run(build, x), want, _TOLERANCE)


@pytest.mark.parametrize(
    ("op", "function", "weight_shape"),
    [
        pytest.param("Conv", relax.op.nn.conv1d, (10, 6, 3), id="conv1d"),
        pytest.param("ConvTranspose", relax.op.nn.conv1d_transpose, (6, 10, 3), id="transposed_1d"),
    ],
)
def test_one_dimension(op, function, weight_shape):
    x, weight = normal(7, 2, 6, 21), normal(8, *weight_shape)
    want = _reference(op, x, weight, strides=[2], pads=[1, 1])
    got = run(lambda v: function(v, relax.const(weight), strides=2, padding=[1, 1]), x)
    assert_close(got, want, _TOLERANCE)


def test_a_computed_weight_is_right_too():
    x, weight = normal(9, 1, 4, 8, 8), normal(10, 5, 4, 3, 3)
    want = _reference("Conv", x, weight, pads=[1, 1, 1, 1])
    got = run(lambda v, w: relax.op.nn.conv2d(v, w, padding=[1, 1, 1, 1]), x, weight)
    assert_close(got, want, _TOLERANCE)


def test_bias_and_activation_are_in_the_kernel():
    weight, bias = relax.const(normal(1, 32, 16, 3, 3)), relax.const(normal(2, 1, 32, 1, 1))

    def build(x):
        convolved = relax.op.nn.conv2d(x, weight)
        return relax.op.nn.relu(relax.op.add(convolved, bias))

    lowered = lower(module(build, ((1, 16, 20, 20), "float32")))
    # To channels last, and the convolution, which stores channels first.
    assert len(kernels(lowered)) == 2
    assert any('scope="local"' in kernel.script() for kernel in kernels(lowered).values())


def test_a_schedule_for_phones_gives_the_same_numbers():
    x, weight = normal(11, 1, 16, 19, 17), normal(12, 24, 16, 3, 3)
    want = _reference("Conv", x, weight, pads=[1, 1, 1, 1], strides=[2, 2])
    got = run(
        lambda v: relax.op.nn.conv2d(v, relax.const(weight), padding=[1, 1, 1, 1], strides=[2, 2]),
        x,
        target="snapdragon-8-gen-3",
    )
    assert_close(got, want, _TOLERANCE)
