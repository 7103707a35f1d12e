"""Large constants lie in a file: same values, no memory once forgotten; small ones stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tvm import relax

from relay_passes.constant_file import (
    ConstantFile,
    forget_pages,
    held_constant,
    in_file,
    moved,
)

LARGE = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)  # 4 MiB


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint32"])
def test_values_are_those_of_the_array(tmp_path, dtype):
    array = LARGE.astype(dtype)
    with ConstantFile(tmp_path):
        turned, plain = held_constant(array.T), held_constant(array)
        forget_pages()
        np.testing.assert_array_equal(turned.value.numpy(), array.T)
        assert plain.ty.dtype == dtype
    np.testing.assert_array_equal(plain.value.numpy(), array)  # and after the context


def test_forgotten_pages_take_no_memory(tmp_path):
    with ConstantFile(tmp_path):
        before = _resident()
        constants = [held_constant(LARGE + n) for n in range(12)]
        for constant in constants:
            assert np.from_dlpack(constant.value).sum() != 0  # looks at every page
        assert _resident() - before > 40e6
        forget_pages()
        assert _resident() - before < 16e6
        np.testing.assert_array_equal(constants[7].value.numpy(), LARGE + 7)


def test_what_is_written_does_not_pile_up(tmp_path):
    with ConstantFile(tmp_path):
        before = _resident()
        constants = []
        for n in range(48):  # 192 MiB
            constants.append(held_constant(LARGE + n))
            assert np.from_dlpack(constants[-1].value).sum() != 0
        assert _resident() - before < 110e6


def test_no_file_is_left_and_none_is_used_outside(tmp_path):
    with ConstantFile(tmp_path):
        held_constant(LARGE)
        assert list(tmp_path.iterdir()) == []  # it has no name
    np.testing.assert_array_equal(held_constant(LARGE).value.numpy(), LARGE)
    forget_pages()  # nothing to forget
    with in_file(None):
        np.testing.assert_array_equal(held_constant(LARGE).value.numpy(), LARGE)


def test_a_constant_moves_once_it_is_large(tmp_path):
    small, large = relax.const(np.ones(3, np.float32)), relax.const(LARGE)
    variable = relax.Var("x", relax.TensorType((3,), "float32"))
    assert moved(large) is large  # without a file
    with ConstantFile(tmp_path):
        assert moved(small) is small
        assert moved(variable) is variable
        there = moved(large)
    assert there is not large
    np.testing.assert_array_equal(there.value.numpy(), LARGE)
