"""16-bit numbers times 4- and 8-bit codes are exact, as a function of OpenCL and as arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from on_gpu import device
from tvm import s_tir, te, tirx

from schedules.code_pairs import add_codes, pairs_per_word, with_code_pairs
from schedules.host_memory import host_memory_pipeline

_COLUMNS = 48


def _function(bits: int, *, once: bool) -> tirx.PrimFunc:
    count = pairs_per_word(bits)
    words = te.placeholder((_COLUMNS,), "uint32", name="words")
    pairs = te.placeholder((count,), "uint32", name="pairs")
    start = te.placeholder((_COLUMNS,), "int32", name="start")
    sums = te.compute(
        (_COLUMNS,),
        lambda n: add_codes(start[n], words[n], [pairs[j] for j in range(count)], once=once),
        name="sums",
    )
    return te.create_prim_func([words, pairs, start, sums])


def _want(words: np.ndarray, pairs: np.ndarray, start: np.ndarray) -> np.ndarray:
    numbers = pairs.view(np.int16).reshape(-1, 2).T.reshape(-1).astype(np.int64)  # low halves first
    bits = 32 // len(numbers)
    places = np.arange(len(numbers)) * bits
    codes = (words[:, None].astype(np.int64) >> places) & ((1 << bits) - 1)
    return start + codes @ numbers


@pytest.mark.parametrize("lanes", [0, 2, 4, 8, 16, 3])
@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_every_length_of_vectors_is_exact(lanes, once, bits):
    random = np.random.default_rng()
    words = random.integers(0, 1 << 32, _COLUMNS, dtype=np.uint32)
    words[:2] = 0, 0xFFFFFFFF
    pairs = random.integers(-32768, 32768, (pairs_per_word(bits), 2)).astype(np.int16)
    pairs[0] = -32768, 32767
    pairs = pairs.view(np.uint32).reshape(-1)
    start = random.integers(-1000, 1000, _COLUMNS).astype(np.int32)

    sch = s_tir.Schedule(_function(bits, once=once))
    (loop,) = sch.get_loops(sch.get_sblock("sums"))
    item, lane = sch.split(loop, [None, lanes or 1])
    sch.bind(item, "blockIdx.x")
    if lanes:
        sch.vectorize(lane)
    target = tvm.target.Target({"kind": "opencl"}, host="llvm")
    dev = device()  # first: it brings the runtime that is linked
    built = tvm.compile(sch.mod, target=target, tir_pipeline=host_memory_pipeline())
    arrays = [tvm.runtime.tensor(a, dev) for a in (words, pairs, start, np.zeros_like(start))]
    built["main"](*arrays)
    assert arrays[-1].numpy().tolist() == _want(words, pairs, start).tolist()


@pytest.mark.parametrize("bits", [4, 8])
def test_the_host_computes_the_same(bits):
    random = np.random.default_rng()
    words = random.integers(0, 1 << 32, _COLUMNS, dtype=np.uint32)
    pairs = random.integers(0, 1 << 32, pairs_per_word(bits), dtype=np.uint32)
    start = np.zeros(_COLUMNS, np.int32)
    arrays = [tvm.runtime.tensor(a) for a in (words, pairs, start, start)]
    tvm.compile(_function(bits, once=False), target="llvm")["main"](*arrays)
    assert arrays[-1].numpy().tolist() == _want(words, pairs, start).tolist()


def test_a_source_gets_the_functions_that_it_calls():
    assert with_code_pairs("kernel") == "kernel"
    called = ("hetero_add_codes4_of_4", "hetero_add_codes16_of_4", "hetero_add_codes4_of_8")
    source = with_code_pairs("".join(f"a({name}(x), {called[0]}(y))" for name in called))
    assert all(source.count(f"{name}(\n") == 1 for name in called)
    assert [source.count(f"hetero_add_pairs{lanes}(int") for lanes in (4, 8, 16)] == [1, 0, 1]
