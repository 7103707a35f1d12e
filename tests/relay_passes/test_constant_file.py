"""Large constants lie in a file: same values, no memory once forgotten; small ones stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tvm import relax

from relay_passes.constant_file import (
    ConstantFile,
    Part,
    forget_pages,
    held_constant,
    held_part,
    in_file,
    lasting_array,
    lasting_constant,
    looked_at,
    moved,
    part_of,
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


def test_what_is_written_to_last_does_not_pile_up_with_what_it_is_made_of(tmp_path):
    with ConstantFile(tmp_path) as lasting, ConstantFile(tmp_path, lasting):
        sources = [held_constant(LARGE + n) for n in range(48)]  # 192 MiB
        forget_pages()
        before = _resident()
        made = []
        for source in sources:
            made.append(lasting_constant(np.from_dlpack(source.value) * 2))
            assert np.from_dlpack(made[-1].value).sum() != 0
        assert _resident() - before < 200e6


def test_what_is_read_does_not_pile_up(tmp_path):
    variable = relax.Var("x", relax.TensorType((3,), "float32"))
    looked_at([relax.const(LARGE), variable])  # without a file nothing happens
    with ConstantFile(tmp_path):
        constants = [held_constant(LARGE + n) for n in range(48)]  # 192 MiB
        forget_pages()
        before = _resident()
        for constant in constants:
            assert np.from_dlpack(constant.value).sum() != 0
            looked_at([variable, constant])
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


def test_what_lies_in_the_file_moves_no_more(tmp_path):
    with ConstantFile(tmp_path) as file:
        there = held_constant(LARGE)
        assert moved(there) is there
        assert moved(relax.const(file.once(LARGE))) is not there  # a copy in memory


def test_an_array_of_a_mapped_file_stays_there(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(LARGE.tobytes())
    mapped = np.memmap(path, np.float32, "c", 0, LARGE.shape)
    with ConstantFile(tmp_path):
        before = _resident()
        constant = held_constant(mapped)
        assert _resident() - before < 1e6  # not even read
        assert _address(constant) == mapped.ctypes.data
        turned = held_constant(mapped.T)  # not as it lies there
        np.testing.assert_array_equal(turned.value.numpy(), LARGE.T)
        odd = np.memmap(path, np.float32, "c", 4, (1024, 1023))  # where no tensor may begin
        assert _address(held_constant(odd)) != odd.ctypes.data
    np.testing.assert_array_equal(constant.value.numpy(), LARGE)


def _address(constant):
    return np.from_dlpack(constant.value).ctypes.data


def test_equal_constants_that_last_are_one(tmp_path):
    with in_file(tmp_path) as lasting:
        places = []
        for _ in range(2):
            with in_file(tmp_path, lasting):
                first, other = lasting_constant(LARGE.T), lasting_constant(LARGE)
                np.testing.assert_array_equal(first.value.numpy(), LARGE.T)
                places.append((_address(first), _address(other)))
        assert places[0] == places[1]
        assert len(set(places[0])) == 2
    np.testing.assert_array_equal(lasting_constant(LARGE).value.numpy(), LARGE)  # without a file


def test_it_is_known_what_a_constant_is_a_part_of(tmp_path):
    whole = relax.const(LARGE)
    part = Part(whole, 1, 256, 1024)
    assert part_of(held_part(LARGE[:, 256:], part)) is None  # without a file
    with ConstantFile(tmp_path):
        constant = held_part(LARGE[:, 256:], part)
        np.testing.assert_array_equal(constant.value.numpy(), LARGE[:, 256:])
        assert part_of(constant) is part
        assert part_of(whole) is None
        place = _address(constant)
        del constant
        later = [held_constant(LARGE[:, 256:]) for _ in range(4)]  # one may take its address
        assert all(part_of(one) is None for one in later), place


def test_an_array_that_lasts_is_the_memory_of_its_constant(tmp_path):
    assert lasting_array(LARGE) is LARGE
    with ConstantFile(tmp_path) as lasting, ConstantFile(tmp_path, lasting):
        small = LARGE[0]
        assert lasting_array(small) is small
        array = lasting_array(LARGE.T)
        assert np.array_equal(array, LARGE.T)
        assert lasting_array(array) is array
        constant = np.from_dlpack(lasting_constant(array).value)
        assert np.shares_memory(constant, array)
    assert np.array_equal(array, LARGE.T)
