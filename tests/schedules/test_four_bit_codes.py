"""Codes in words become floats without an error, whichever way."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from on_gpu import assert_close, device, gpu_spec
from tvm import relax, s_tir, te, tirx

from hetero_tvm import vm_lowering
from schedules.four_bit_codes import CODES_PER_WORD, IntegerCodes, SubnormalCodes
from schedules.tvm_target import tvm_target

_FORMS = {
    "integer": IntegerCodes(chains=2),
    "one_chain": IntegerCodes(chains=1),
    "subnormal": SubnormalCodes(),
}


def _run(codes, xs: np.ndarray, words: np.ndarray, scale: float, zero: float) -> np.ndarray:
    """`codes.product` of each row of `xs` [n, 8 * w] and `words` [n, w], an item each."""
    rows, count = words.shape
    x = te.placeholder(xs.shape, name="x")
    w = te.placeholder(words.shape, "uint32", name="w")
    out = te.compute(
        (rows,),
        lambda i: codes.product(
            [x[i, k] for k in range(CODES_PER_WORD * count)],
            [w[i, n] for n in range(count)],
            tirx.const(scale, "float32"),
            tirx.const(zero, "float32"),
        ),
        name="out",
    )
    sch = s_tir.Schedule(te.create_prim_func([x, w, out]).with_attr("tirx.is_scheduled", True))
    sch.bind(sch.get_loops(sch.get_sblock("out"))[0], "blockIdx.x")
    builder = relax.BlockBuilder()
    kernel = builder.add_func(sch.mod["main"].without_attr("global_symbol"), "kernel")
    params = [
        relax.Var(name, relax.TensorType(array.shape, str(array.dtype)))
        for name, array in (("x", xs), ("w", words))
    ]
    with builder.function("main", params):
        with builder.dataflow():
            call = relax.call_tir(kernel, params, out_ty=relax.TensorType((rows,), "float32"))
            result = builder.emit_output(call)
        builder.emit_func_output(result)
    dev = device()
    executable = vm_lowering.compile_executable(builder.get(), tvm_target(gpu_spec()), None, [])
    machine = relax.VirtualMachine(executable, dev)
    return machine["main"](*(tvm.runtime.tensor(array, dev) for array in (xs, words))).numpy()


@pytest.mark.parametrize("form", _FORMS)
def test_every_code_at_every_place(form):
    codes = np.stack([np.full(CODES_PER_WORD, code, np.uint32) for code in range(16)])
    codes = np.concatenate([codes, (codes * 7 + np.arange(CODES_PER_WORD)) % 16]).astype(np.uint32)
    words = np.bitwise_or.reduce(codes << 4 * np.arange(CODES_PER_WORD, dtype=np.uint32), axis=1)
    for place in range(CODES_PER_WORD):
        xs = np.zeros((len(codes), CODES_PER_WORD), np.float32)
        xs[:, place] = 1.5
        got = _run(_FORMS[form], xs, words[:, None], scale=0.5, zero=0.0)
        assert np.array_equal(got, 0.75 * codes[:, place])  # no rounding on the way


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e8])
def test_sums_of_several_words(form, size):
    random = np.random.default_rng()
    codes = random.integers(0, 16, (20, 4 * CODES_PER_WORD)).astype(np.uint32)
    shifts = 4 * np.arange(CODES_PER_WORD, dtype=np.uint32)
    words = np.bitwise_or.reduce(codes.reshape(20, 4, CODES_PER_WORD) << shifts, axis=2)
    xs = (random.standard_normal(codes.shape) * size).astype(np.float32)
    want = 0.25 * (xs.astype(np.float64) * (codes - 7.5)).sum(axis=1)
    got = _run(_FORMS[form], xs, words.astype(np.uint32), scale=0.25, zero=7.5)
    assert_close(got, want, 2e-6)  # 32 products in float32: at most 32 roundings of 2**-24
