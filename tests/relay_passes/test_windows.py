"""Windows of convolutions and pools: the rows and the padding of each part."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax

from relay_passes.planner.problem import Cut
from relay_passes.windows import Window, row_window, with_row_padding


@given(
    st.integers(1, 40), st.integers(1, 7), st.integers(1, 4), st.integers(0, 6), st.integers(0, 6)
)
def test_parts_read_what_the_whole_reads(extent, size, stride, before, behind):
    """Row by row, over an image of which every row is its own number and padding is -1."""
    padded = np.concatenate([np.full(before, -1), np.arange(extent), np.full(behind, -1)])
    count = (len(padded) - size) // stride + 1
    if count < 2:
        return
    window = Window(0, extent, size, stride, before)
    for at in range(1, count):
        cut = Cut(0, at, count)
        if not window.fits(cut):
            continue
        for device in ("npu", "gpu"):
            begin, end = cut.of(device)
            first, past = window.rows(begin, end)
            above, below = window.padding(begin, end)
            part = np.concatenate([np.full(above, -1), np.arange(first, past), np.full(below, -1)])
            assert (len(part) - size) // stride + 1 == end - begin
            for row in range(end - begin):
                ours = part[row * stride : row * stride + size]
                theirs = padded[(begin + row) * stride : (begin + row) * stride + size]
                np.testing.assert_array_equal(ours, theirs)


def test_a_part_of_nothing_but_padding_does_not_fit():
    window = Window(0, extent=4, size=2, stride=1, before=3)
    assert not window.fits(Cut(0, 2, 9))  # reads rows -3 to -1
    assert window.fits(Cut(0, 3, 9))


def _image(*shape):
    return relax.Var("x", relax.TensorType(shape, "float32"))


def _normal(call):
    return relax.BlockBuilder().normalize(call)


def test_window_of_a_convolution_in_either_layout():
    first = _normal(
        relax.op.nn.conv2d(
            _image(1, 3, 9, 7),
            relax.const(np.ones((4, 3, 3, 5), np.float32)),
            strides=[2, 1],
            padding=[1, 2, 0, 2],
            dilation=[2, 1],
        )
    )
    last = _normal(
        relax.op.nn.conv2d(
            _image(1, 9, 7, 3),
            relax.const(np.ones((3, 5, 3, 4), np.float32)),
            strides=[2, 1],
            padding=[1, 2, 0, 2],
            dilation=[2, 1],
            data_layout="NHWC",
            kernel_layout="HWIO",
        )
    )
    assert row_window(first) == Window(axis=2, extent=9, size=5, stride=2, before=1)
    assert row_window(last) == Window(axis=1, extent=9, size=5, stride=2, before=1)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(relax.op.nn.relu(_image(1, 3, 9, 7)), id="no_window"),
        pytest.param(
            relax.op.nn.max_pool2d(_image(1, 3, 9, 7), (2, 2), (2, 2), ceil_mode=True),
            id="a_window_beyond_the_padding",
        ),
    ],
)
def test_has_no_window_of_its_own(call):
    assert row_window(_normal(call)) is None


def test_other_padding_keeps_every_other_attribute():
    weight = relax.const(np.ones((6, 1, 3, 3), np.float32))
    before = _normal(
        relax.op.nn.conv2d(
            _image(1, 6, 9, 7), weight, [2, 1], [1, 2, 3, 4], [1, 2], 6, out_dtype="float32"
        )
    )
    again = _normal(with_row_padding(before, list(before.args), (1, 3)))
    assert str(again) == str(before)
    moved = _normal(with_row_padding(before, list(before.args), (0, 5)))
    assert [int(n) for n in moved.attrs.padding] == [0, 2, 5, 4]
