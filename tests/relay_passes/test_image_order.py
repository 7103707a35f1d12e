"""How cut tensors lie: which are images, and in which order of axes."""

import numpy as np
import pytest
from tvm import relax

from relay_passes.image_order import image_results, is_stored_as_computed, stored_order


@pytest.mark.parametrize(
    ("shape", "axis", "image", "order"),
    [
        pytest.param((5, 8), 1, False, [1, 0], id="columns"),
        pytest.param((1, 4, 6, 8), 2, False, [2, 0, 1, 3], id="rows_of_heads"),
        pytest.param((1, 4, 6, 8), 2, True, [0, 2, 3, 1], id="rows_of_an_image"),
        pytest.param((3, 4, 6, 8), 2, True, [2, 0, 3, 1], id="rows_of_images"),
        pytest.param((3, 4, 6, 8), 1, True, [1, 0, 2, 3], id="channels_of_images"),
    ],
)
def test_the_cut_axis_is_outermost(shape, axis, image, order):
    assert stored_order(shape, axis, image=image) == order
    first = next(a for a in order if shape[a] > 1)
    assert first == axis


def test_only_rows_of_one_image_are_stored_as_they_are_computed():
    assert is_stored_as_computed((1, 4, 6, 8), 2, image=True)
    assert not is_stored_as_computed((2, 4, 6, 8), 2, image=True)
    assert not is_stored_as_computed((1, 4, 6, 8), 2, image=False)
    assert not is_stored_as_computed((1, 4, 6, 8), 3, image=True)


def test_what_convolutions_make_and_what_is_made_of_it():
    x = relax.Var("x", relax.TensorType((1, 3, 8, 8), "float32"))
    weight = relax.const(np.ones((3, 3, 1, 1), np.float32))
    calls, builder = [], relax.BlockBuilder()

    def emit(call):
        value = builder.normalize(call)
        calls.append((relax.Var(f"v{len(calls)}", value.ty), value))
        return calls[-1][0]

    conv = emit(relax.op.nn.conv2d(x, weight))
    biased = emit(relax.op.add(conv, x))
    alone = emit(relax.op.nn.relu(x))
    softmax = emit(relax.op.nn.softmax(biased, -1))
    heads = emit(relax.op.matmul(softmax, softmax))
    flat = emit(relax.op.reshape(biased, (3, 64)))
    assert image_results(calls) == {conv, biased}
    assert not {alone, softmax, heads, flat} & image_results(calls)


def test_a_convolution_in_another_layout_makes_no_image_of_ours():
    x = relax.Var("x", relax.TensorType((1, 8, 8, 3), "float32"))
    weight = relax.const(np.ones((1, 1, 3, 3), np.float32))
    call = relax.op.nn.conv2d(x, weight, data_layout="NHWC", kernel_layout="HWIO")
    call = relax.BlockBuilder().normalize(call)
    assert image_results([(relax.Var("y", call.ty), call)]) == frozenset()
