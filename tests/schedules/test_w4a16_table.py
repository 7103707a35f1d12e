"""Float constants that stand for 4-bit weights get the kernel that reads the codes."""

from __future__ import annotations

import numpy as np
import on_gpu
import pytest
from tvm import relax

from relay_passes.lower_gpu import lower_gpu
from relay_passes.rewrite_bindings import dataflow_bindings
from relay_passes.tir_calls import kernel_name
from schedules import w4a16_table
from schedules.defaults import default_legalizations, default_rules
from schedules.tvm_target import tvm_target
from schedules.w4a16_table import W4Blocks, W4Table, _as_imported

_DEPTH, _COLUMNS, _GROUP = 96, 40, 32


def _blocks(seed: int, zeros: str = "whole", depth: int = _DEPTH, bits: int = 4) -> W4Blocks:
    rng = np.random.default_rng(seed)
    groups = -(-depth // _GROUP)
    stored = {
        "none": None,
        "whole": rng.integers(0, 256, (_COLUMNS, -(-groups * bits // 8))).astype(np.uint8),
        "real": rng.random((_COLUMNS, groups)).astype(np.float32) * 15,
    }
    return W4Blocks(
        packed=rng.integers(0, 256, (_COLUMNS, groups, _GROUP * bits // 8)).astype(np.uint8),
        scales=(rng.random((_COLUMNS, groups)) + 0.01).astype(np.float32),
        zeros=stored[zeros],
        depth=depth,
        bits=bits,
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("zeros", ["none", "whole", "real"])
def test_whole_weights_and_columns_of_them_are_found(zeros, dtype):
    blocks = [_blocks(seed, zeros, bits=8 if seed == 2 else 4) for seed in range(3)]
    table = W4Table(blocks)
    for entry in blocks:
        matrix = _as_imported(entry.weight(), dtype)
        for part in (slice(None), slice(0, 16), slice(16, None), slice(7, 8)):
            found = table.find(np.ascontiguousarray(matrix[:, part]))
            np.testing.assert_array_equal(found.codes, entry.weight().codes[:, part])
            np.testing.assert_array_equal(found.scales, entry.weight().scales[:, part])


@pytest.mark.parametrize(("zeros", "parts"), [("none", 1), ("whole", 2), ("real", 2)])
def test_what_a_kernel_reads_of_a_whole_weight(zeros, parts):
    blocks = [_blocks(seed, zeros) for seed in range(3)]
    wide = _blocks(3, zeros, bits=8)
    table = W4Table([*blocks, wide])
    for dtype in ("float32", "float16"):
        groups = _DEPTH // _GROUP * _COLUMNS
        of_wide = table.packed_bytes(_as_imported(wide.weight(), dtype))
        assert of_wide == _DEPTH * _COLUMNS + parts * 4 * groups
        matrix = _as_imported(blocks[1].weight(), dtype)
        groups = _DEPTH // _GROUP * _COLUMNS
        assert table.packed_bytes(matrix) == _DEPTH * _COLUMNS // 2 + parts * 4 * groups
        assert table.packed_bytes(np.ascontiguousarray(matrix[:, 1:])) is None
        assert table.packed_bytes(matrix + 1) is None
    assert table.packed_bytes(np.zeros((3, 3))) is None


def test_a_constant_that_differs_anywhere_is_not_one_of_them():
    entry = _blocks(0)
    table = W4Table([entry])
    matrix = _as_imported(entry.weight(), "float32")
    for place in ((0, 0), (50, 20), (-1, -1)):
        other = matrix.copy()
        other[place] = np.nextafter(other[place], np.float32(9), dtype=np.float32)
        assert table.find(other) is None
    assert table.find(matrix[:, ::2]) is None
    assert table.find(matrix[:64]) is None
    assert table.find(matrix[None]) is None
    assert table.find(matrix.astype(np.float64)) is None


def test_a_depth_that_no_kernel_takes_stays_float():
    assert len(W4Table([_blocks(0, depth=92), _blocks(1, depth=40, bits=8)])) == 0


def test_products_of_one_operand_round_it_once():
    entries = [_blocks(1), _blocks(2)]
    matrices = [_as_imported(entry.weight(), "float32") for entry in entries]

    def build(x: relax.Var) -> relax.Expr:
        y = relax.BlockBuilder.current().emit(relax.op.nn.relu(x))
        first, second = (relax.op.matmul(y, relax.const(matrix)) for matrix in matrices)
        return relax.op.multiply(first, second)

    gpu = on_gpu.gpu_spec("host")
    lowered = lower_gpu(
        on_gpu.module(build, ((1, _DEPTH), "float32")),
        target=tvm_target(gpu),
        legalizations=default_legalizations(gpu, W4Table(entries)),
        rules=default_rules(gpu),
    )
    called = [kernel_name(value.value) for value in dataflow_bindings(lowered["main"])]
    assert called.count("rounded_rows") == 1
    x = on_gpu.normal(2, 1, _DEPTH)
    (got,) = on_gpu.run_lowered(lowered, [x])
    positive = np.maximum(x, 0).astype(np.float64)
    want = np.prod([positive @ entry.weight().dequantised() for entry in entries], axis=0)
    on_gpu.assert_close(got, want, 1e-4)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(1, _DEPTH), (2, 5, _DEPTH)])
def test_a_product_reads_the_codes(shape, bits):
    entry = _blocks(1, bits=bits)
    matrix = _as_imported(entry.weight(), "float32")
    other = on_gpu.normal(5, _COLUMNS, 16)

    def build(x: relax.Var) -> relax.Expr:
        return relax.op.matmul(relax.op.matmul(x, relax.const(matrix)), relax.const(other))

    gpu = on_gpu.gpu_spec("host")
    lowered = lower_gpu(
        on_gpu.module(build, (shape, "float32")),
        target=tvm_target(gpu),
        legalizations=default_legalizations(gpu, W4Table([entry])),
        rules=default_rules(gpu),
    )
    assert sorted(on_gpu.kernels(lowered)) == ["matmul", "rounded_rows", f"w{bits}a16"]
    x = on_gpu.normal(2, *shape)
    (got,) = on_gpu.run_lowered(lowered, [x])
    on_gpu.assert_close(got, x.astype(np.float64) @ entry.weight().dequantised() @ other, 1e-4)


def test_eight_bits_stay_float_where_items_run_in_lockstep():
    entry = _blocks(1, bits=8)
    gpu = on_gpu.gpu_spec("snapdragon-8-gen-3")
    weight = relax.const(_as_imported(entry.weight(), "float32"))
    lowered = lower_gpu(
        on_gpu.module(lambda x: relax.op.matmul(x, weight), ((1, _DEPTH), "float32")),
        target=tvm_target(gpu),
        legalizations=default_legalizations(gpu, W4Table([entry])),
        rules=default_rules(gpu),
    )
    assert list(on_gpu.kernels(lowered)) == ["matmul"]


@pytest.mark.parametrize("zeros", ["none", "whole", "real"])
@pytest.mark.parametrize("first", [0, 5])
def test_a_weight_in_pieces_is_the_weight(monkeypatch, zeros, first):
    """Seven columns at a time of forty, or of those from the sixth on; found all the same."""
    monkeypatch.setattr(w4a16_table, "_AT_A_TIME", 7 * _DEPTH)
    entry = _blocks(0, zeros)
    whole = _as_imported(entry.weight(), "float32")
    pieces = list(entry.imported("float32", first))
    assert [piece.start for piece, _ in pieces] == [*range(0, _COLUMNS - first, 7)]
    np.testing.assert_array_equal(
        np.concatenate([values for _, values in pieces], 1), whole[:, first:]
    )
    found = W4Table([entry]).find(whole[:, first:])
    np.testing.assert_array_equal(found.codes, entry.weight().codes[:, first:])
    whole[-1, -1] += 1
    assert W4Table([entry]).find(whole[:, first:]) is None
