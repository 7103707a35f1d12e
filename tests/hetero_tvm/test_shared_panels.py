"""Panels of a weight are made once, and those of a part are some of them."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from hetero_tvm.shared_panels import SharedPanels
from relay_passes.constant_file import ConstantFile, Part, held_constant, held_part, in_file
from schedules.layout import pack_panels

WEIGHT = np.random.default_rng(0).standard_normal((384, 400)).astype(np.float32)
PANEL = 16


@pytest.fixture
def lasting(tmp_path):
    with ConstantFile(tmp_path) as file:
        yield file


def _place(constant):
    return np.from_dlpack(constant.value).ctypes.data


def _columns(whole, begin, end):
    return held_part(WEIGHT[:, begin:end], Part(whole, 1, begin, end))


def test_steps_share_the_panels_of_a_weight(lasting, tmp_path):
    panels, whole = SharedPanels(lasting), held_constant(WEIGHT)
    places = []
    for begin, end in ((0, 400), (64, 400), (192, 336)):
        with in_file(tmp_path, lasting):
            weight = whole if (begin, end) == (0, 400) else _columns(whole, begin, end)
            made = panels(weight, PANEL)
            np.testing.assert_array_equal(
                made.value.numpy(), pack_panels(WEIGHT[:, begin:end], PANEL)
            )
            places.append(_place(made) - begin // PANEL * len(WEIGHT) * PANEL * 4)
    assert len(set(places)) == 1


def test_a_last_panel_that_is_not_full_is_the_whole_weights(lasting):
    panels, whole = SharedPanels(lasting), held_constant(WEIGHT)
    made = panels(_columns(whole, 96, 400), 48)
    np.testing.assert_array_equal(made.value.numpy(), pack_panels(WEIGHT[:, 96:], 48))


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        pytest.param(8, 400, id="begins_in_a_panel"),
        pytest.param(0, 200, id="ends_in_a_panel"),
    ],
)
def test_what_is_no_block_of_them_is_packed_by_itself(lasting, begin, end):
    panels, whole = SharedPanels(lasting), held_constant(WEIGHT)
    part = _columns(whole, begin, end)
    made = panels(part, PANEL)
    np.testing.assert_array_equal(made.value.numpy(), pack_panels(WEIGHT[:, begin:end], PANEL))


def test_rows_of_a_weight_are_packed_by_themselves(lasting):
    whole = held_constant(WEIGHT)
    part = held_part(WEIGHT[128:], Part(whole, 0, 128, 384))
    made = SharedPanels(lasting)(part, PANEL)
    np.testing.assert_array_equal(made.value.numpy(), pack_panels(WEIGHT[128:], PANEL))


def test_small_weights_and_batches_are_packed_by_themselves(lasting):
    batch = np.stack([WEIGHT[:, :64]] * 2)
    for array in (np.ones((3, 32), np.float32), batch):
        made = SharedPanels(lasting)(relax.const(array), PANEL)
        np.testing.assert_array_equal(made.value.numpy(), pack_panels(array, PANEL))
