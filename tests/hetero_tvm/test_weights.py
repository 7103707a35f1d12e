"""Large constants leave the code: once each, into a file, and come back as parameters."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import tvm
from tvm import relax

from hetero_tvm.kept_files import KeptFiles
from hetero_tvm.weights import WeightStore
from hetero_tvm.weights_layout import ALIGNMENT, VIEW_ALIGNMENT, read_weights
from relay_passes import constant_file

LARGE = np.arange(40 * 50, dtype=np.float32).reshape(40, 50)
SMALL = np.ones((4,), np.float32)


def _function(*constants):
    x = relax.Var("x", relax.TensorType((3, 40), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            outputs = [
                builder.emit_output(relax.op.matmul(x, relax.const(array))) for array in constants
            ]
            outputs.append(
                builder.emit_output(relax.op.add(relax.const(SMALL), relax.const(SMALL)))
            )
        builder.emit_func_output(relax.Tuple(outputs))
    return builder.get()["main"]


@pytest.fixture
def store(tmp_path):
    with WeightStore(tmp_path / "model.so") as opened:
        yield opened


def test_large_constants_become_parameters_and_small_ones_stay(store):
    lifted = store.lift("main", _function(LARGE, LARGE + 1))
    assert [param.name for param in lifted.params] == ["x", "weight_0", "weight_1"]
    assert store.of_function == {"main": (0, 1)}
    assert int(lifted.attrs["num_input"]) == 1  # what the virtual machine looks at in every run
    relax.analysis.well_formed(_module(lifted))


def _module(function):
    import tvm

    return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


def test_equal_weights_of_two_functions_are_written_once(store):
    store.lift("main_1", _function(LARGE))
    store.lift("main_8", _function(LARGE + 1, LARGE))
    assert store.of_function == {"main_1": (0,), "main_8": (1, 0)}
    assert len(store.tensors) == 2


def _written(store, file):
    """The store in an artefact whose code takes one page."""
    with file.open("wb") as stream:
        stream.write(bytes(ALIGNMENT))
        described = store.write(stream, ALIGNMENT)
    described.check()
    assert file.stat().st_size == ALIGNMENT + described.nbytes
    assert described.nbytes == store.nbytes
    assert list(described.places) == store.places()
    assert described.sha256 == hashlib.sha256(file.read_bytes()[ALIGNMENT:]).hexdigest()
    return described, read_weights(file, described)


def test_weights_lie_on_pages_and_are_read_back(store, tmp_path):
    store.lift("main", _function(LARGE, LARGE * 2))
    described, (first, second) = _written(store, tmp_path / "artefact")
    assert described.nbytes == 2 * 2 * ALIGNMENT  # 8000 bytes each: two pages
    np.testing.assert_array_equal(first, LARGE)
    np.testing.assert_array_equal(second, LARGE * 2)


def test_a_weight_of_an_npu_region_is_the_same_as_that_of_a_function(store):
    store.lift("main", _function(LARGE))
    assert store.index_of(LARGE) == 0
    assert store.index_of(LARGE + 1) == 1
    assert store.of_function == {"main": (0,)}
    assert store.places() == [0, 2 * ALIGNMENT]  # 8000 bytes before it: two pages


PANELS = np.random.default_rng(3).standard_normal((6, 8, 32)).astype(np.float32)  # 1024 bytes each


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_parts_of_a_weight_are_views_in_any_order(store, tmp_path, order):
    """What two steps of a model cut differently is stored once."""
    parts = [PANELS, PANELS[2:5], PANELS[:4], PANELS[3:]]
    numbers = [store.index_of(parts[n]) for n in order]
    described, found = _written(store, tmp_path / "artefact")
    assert described.nbytes == 2 * ALIGNMENT  # 6144 bytes
    assert all(place % VIEW_ALIGNMENT == 0 for place in described.places)
    for number, n in zip(numbers, order, strict=True):
        np.testing.assert_array_equal(found[number], parts[n])


def test_what_is_no_part_is_stored_beside_it(store, tmp_path):
    strange = PANELS[[0, 2]]  # not neighbours
    other_type = PANELS[:2].view(np.int32)
    columns = np.ascontiguousarray(PANELS[:, :, :3])  # 96 bytes each: no view can begin there
    for array in (PANELS, strange, other_type, columns, columns[1:3]):
        store.index_of(array)
    described, found = _written(store, tmp_path / "artefact")
    assert described.nbytes == (2 + 1 + 1 + 1 + 1) * ALIGNMENT
    for array, want in zip(found, (PANELS, strange, other_type, columns), strict=False):
        np.testing.assert_array_equal(array, want)


def test_columns_of_a_weight_that_lies_by_them_are_views(store, tmp_path):
    """As NPU regions of two steps have them: the first ones of each weight."""
    by_columns = np.random.default_rng(5).standard_normal((96, 24)).astype(np.float32)
    parts = [by_columns[:32], by_columns[:64], by_columns, by_columns[:33]]  # 96 bytes a column
    for part in parts:
        store.index_of(part)
    described, found = _written(store, tmp_path / "artefact")
    assert described.places[:3] == (0, 0, 0)
    assert described.nbytes == (3 + 1) * ALIGNMENT  # no view ends behind 33 columns: 3168 bytes
    for array, part in zip(found, parts, strict=True):
        np.testing.assert_array_equal(array, part)


@pytest.mark.parametrize(
    ("columns", "rows_each"),
    [pytest.param(576, 8, id="short"), pytest.param(1536, 4, id="longer"), (4096, 2), (9000, 4)],
)
def test_rows_are_told_by_few_checksums_and_parts_are_views(store, tmp_path, columns, rows_each):
    rows = np.random.default_rng(6).standard_normal((128, columns)).astype(np.float32)
    assert len(store.known(store.index_of(rows)).slabs) == 128 // rows_each
    for part in (rows[:32], rows[96:], rows[48:80]):
        store.index_of(part)
    described, found = _written(store, tmp_path / "artefact")
    assert described.nbytes == -(-rows.nbytes // ALIGNMENT) * ALIGNMENT
    np.testing.assert_array_equal(found[3], rows[48:80])


def test_a_lifted_function_does_not_depend_on_what_the_store_had_before(tmp_path):
    lifted = []
    for before in ((), (LARGE + 1, LARGE + 2)):
        with WeightStore(tmp_path / "model.so") as store:
            for array in before:
                store.index_of(array)
            lifted.append(store.lift("main", _function(LARGE)))
            assert store.of_function["main"] == (len(before),)
    assert str(lifted[0]) == str(lifted[1])
    assert tvm.ir.save_json(lifted[0]) == tvm.ir.save_json(lifted[1])


def test_what_was_lifted_is_let_go_of_before_all_of_it_is_in_memory(store, tmp_path, monkeypatch):
    forgotten = []

    class File(constant_file.ConstantFile):
        def forget(self):
            forgotten.append(self._since)
            super().forget()

    monkeypatch.setattr(constant_file, "_FORGET_BYTES", LARGE.nbytes * 3 // 2)
    with File(tmp_path):
        store.lift("main", _function(LARGE, LARGE + 1, LARGE + 2, LARGE + 3))
        assert forgotten == [LARGE.nbytes * 2] * 2


def test_nothing_is_left_behind(tmp_path):
    with pytest.raises(RuntimeError), WeightStore(tmp_path / "model.so") as store:
        store.lift("main", _function(LARGE))
        raise RuntimeError("interrupted")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_were_kept_are_taken_again(tmp_path):
    kept = KeptFiles(tmp_path / "kept")
    written = []
    with WeightStore(tmp_path / "a.so", kept) as store:
        numbers = [store.index_of(array) for array in (LARGE, LARGE[:16], LARGE + 1)]
        known = [store.known(number) for number in numbers]
        written.append(_bytes(store, tmp_path))
    with WeightStore(tmp_path / "b.so", kept) as store:
        assert [store.adopt(each) for each in known] == numbers
        written.append(_bytes(store, tmp_path))
    with WeightStore(tmp_path / "c.so") as store:
        assert [store.index_of(array) for array in (LARGE, LARGE[:16], LARGE + 1)] == numbers
        written.append(_bytes(store, tmp_path))
    assert written[0] == written[1] == written[2]


def test_a_kept_weight_that_is_damaged_is_not_taken(tmp_path):
    kept = KeptFiles(tmp_path / "kept")
    with WeightStore(tmp_path / "a.so", kept) as store:
        known = store.known(store.index_of(LARGE))
    path = kept.path(known.name)
    content = path.read_bytes()
    for damaged in (content[:-1], content[:-1] + b"x"):
        path.write_bytes(damaged)
        with WeightStore(tmp_path / "b.so", kept) as store:
            assert store.adopt(known) is None
            assert not store.tensors


def test_a_kept_weight_is_written_again_only_where_it_is_damaged(tmp_path):
    kept = KeptFiles(tmp_path / "kept")
    with WeightStore(tmp_path / "a.so", kept) as store:
        path = kept.path(store.known(store.index_of(LARGE)).name)
    whole, file = path.read_bytes(), path.stat().st_ino
    with WeightStore(tmp_path / "b.so", kept) as store:
        store.index_of(LARGE)
        assert path.stat().st_ino == file
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        with WeightStore(tmp_path / "c.so", kept) as store:
            store.index_of(LARGE)
            assert path.read_bytes() == whole


def _bytes(store, folder):
    path = folder / "written"
    with path.open("wb") as file:
        store.write(file, 0)
    return path.read_bytes()
