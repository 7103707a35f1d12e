"""Which figures a cost model gets, and what is said where one cannot be had."""

import dataclasses
import importlib.util

import numpy as np
import pytest
from tvm import relax

from hetero_tvm import costs
from hetero_tvm.errors import BadInput, EnvironmentProblem
from relay_passes.constants import tensor_constant
from relay_passes.op_work import Work
from relay_passes.program import read_program
from schedules.cost_model import CostModel
from schedules.gpu_model import Record
from schedules.npu_costs import NpuCosts, Product
from schedules.w4a16_table import W4Blocks, W4Table
from target_specs.loader import load_spec

PHONE = CostModel(load_spec("snapdragon-8-gen-3"))
HOST = CostModel(load_spec("host"))
WEIGHT = Work(kind="matmul", macs=4 * 8 * 16, rows=4, depth=8, columns=16, weight_bytes=512)
RECORDS = [
    Record(
        kind="matmul", rows=rows, depth=64, columns=64, macs=rows * 4096, bytes=16384 + 512 * rows,
        element_bytes=4, reduces=False, us=30.0 * rows, roofline_us=10.0 * rows,
    )
    for rows in range(1, 13)
]  # fmt: skip


def test_estimates_are_prepared_and_used(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        NpuCosts, "prepare", lambda self, products, shares: asked.append((list(products), shares))
    )
    found = costs.with_estimates(PHONE, [Product(4, 8, 16)], cache_dir=tmp_path, shares=False)
    assert asked == [([Product(4, 8, 16)], False)]
    assert found.npu_costs is not None
    assert (found.spec, PHONE.npu_costs) == (PHONE.spec, None)


def test_no_estimates_of_a_stand_in(tmp_path):
    with pytest.raises(BadInput, match=r"--estimate: .* estimates only its own NPUs; plan without"):
        costs.with_estimates(HOST, [], cache_dir=tmp_path)


def test_no_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r"--estimate: .* 'hetero-tvm\[qnn\]'"):
        costs.with_estimates(PHONE, [Product(4, 8, 16)], cache_dir=None)


def test_products_of_a_model():
    other = dataclasses.replace(WEIGHT, rows=8, macs=2 * WEIGHT.macs)
    found = costs.products_of(HOST, [WEIGHT, Work(kind="vector"), WEIGHT, other])
    assert found == [Product(4, 8, 16, 32), Product(8, 8, 16, 32)]


def test_measured_kernels():
    pytest.importorskip("xgboost", reason="xgboost is not installed")
    lines = []
    found = costs.with_measured_kernels(HOST, RECORDS, progress=lines.append)
    assert found.gpu_model is not None
    assert lines == [found.gpu_model.summary]
    assert costs.with_measured_kernels(HOST, RECORDS[:3]) == HOST  # too few


def test_without_xgboost_the_roofline_stays(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    lines = []
    assert costs.with_measured_kernels(HOST, RECORDS, progress=lines.append) == HOST
    assert "xgboost is not installed" in lines[0]


def test_bad_records_are_the_users(tmp_path):
    with pytest.raises(BadInput, match=r"none\.jsonl: cannot be read: No such file"):
        costs.load_records(tmp_path / "none.jsonl")
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(BadInput, match=r"a\.jsonl:1: not a record"):
        costs.load_records(tmp_path)


def test_products_with_four_bit_weights_are_priced_by_what_the_gpu_reads():
    rng = np.random.default_rng(3)
    blocks = W4Blocks(
        packed=rng.integers(0, 256, (64, 3, 16)).astype(np.uint8),
        scales=rng.random((64, 3)).astype(np.float32),
        zeros=None,
        depth=96,
    )
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 96), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            known = tensor_constant(blocks.weight().dequantised().astype(np.float32))
            four = builder.emit(relax.op.matmul(x, known), "four")
            other = tensor_constant(rng.random((64, 8)).astype(np.float32))
            out = builder.emit_output(relax.op.matmul(four, other), "float")
        builder.emit_func_output(out)
    nodes = read_program(builder.get())
    table = W4Table([blocks])
    found = costs.with_packed_weights(PHONE, nodes, table)
    assert found.packed == {"four": (96 * 64 / 2 + 4 * 64 * 3) / (4 * 96 * 64)}
    assert costs.with_packed_weights(PHONE, nodes, W4Table(())) is PHONE
    # And by what the NPU reads: the vendor is asked for a product of four bits.
    (four, *_) = (node.work for node in nodes)
    assert costs.products_of(found, [four]) == [Product(1, 96, 64, 4)]
    assert costs.products_of(PHONE, [four]) == [Product(1, 96, 64, 32)]


def _product(matrix, rows, dtype="float32"):
    x = relax.Var("x", relax.TensorType((1, rows, len(matrix)), dtype))
    return relax.BlockBuilder().normalize(relax.op.matmul(x, tensor_constant(matrix.astype(dtype))))


def _four_bits(scales, zeros=None):
    rng = np.random.default_rng(5)
    packed = rng.integers(0, 256, (64, 3, 16)).astype(np.uint8)
    return W4Blocks(packed=packed, scales=scales.astype(np.float32), zeros=zeros, depth=96)


def test_the_npu_gets_codes_bit_for_bit():
    rng = np.random.default_rng(4)
    zeros = rng.integers(0, 256, (64, 2)).astype(np.uint8) & np.array([255, 15], np.uint8)
    blocks = _four_bits(rng.random((64, 3)), zeros)
    matrix = blocks.weight().dequantised().astype(np.float32)
    find = costs.block_codes(PHONE.spec.npu, W4Table([blocks]))
    whole = find(_product(matrix, 64))
    np.testing.assert_array_equal(whole.codes, blocks.packed)
    np.testing.assert_array_equal(whole.scales, blocks.scales)
    np.testing.assert_array_equal(whole.zeros, zeros)
    part = find(_product(matrix[:, 16:48], 1))  # of a product that is cut
    np.testing.assert_array_equal(part.codes, blocks.packed[16:48])
    np.testing.assert_array_equal(part.zeros, zeros[16:48])


def test_what_the_npu_gets_as_floats():
    rng = np.random.default_rng(4)
    blocks = _four_bits(rng.random((64, 3)))
    matrix = blocks.weight().dequantised()
    find = costs.block_codes(PHONE.spec.npu, W4Table([blocks]))
    assert find(_product(matrix, 65)) is None  # the spec says up to 64 rows
    assert find(_product(matrix + 1, 1)) is None  # no 4-bit weight
    assert find(_product(matrix, 1, "float16")) is None  # scales that float16 has not
    halves = _four_bits(rng.integers(1, 9, (64, 3)) / 8)
    find = costs.block_codes(PHONE.spec.npu, W4Table([halves]))
    assert find(_product(halves.weight().dequantised(), 1, "float16")).scales.dtype == np.float16
    real = _four_bits(rng.random((64, 3)), rng.random((64, 3)).astype(np.float32))
    find = costs.block_codes(PHONE.spec.npu, W4Table([real]))
    assert find(_product(real.weight().dequantised(), 1)) is None  # zero points that are no codes
    none = dataclasses.replace(PHONE.spec.npu, coded_rows=None)
    find = costs.block_codes(none, W4Table([blocks]))
    assert find(_product(matrix, 1)) is None
