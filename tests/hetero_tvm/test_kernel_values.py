import base64
import copy
import json

import numpy as np
import pytest
import tuning_cases as cases
import tvm
import tvm_ffi

from hetero_tvm import kernel_values, runtime
from schedules.trials import plain
from schedules.verify import Reference

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mixed(state):
    """SplitMix64, as it is published."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def _bits(seed, place, number):
    key = _mixed((_mixed((seed + _GOLDEN) & _MASK) + (place + 1) * _GOLDEN) & _MASK)
    return _mixed((key + (number + 1) * _GOLDEN) & _MASK)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_are_spread_evenly(dtype):
    got = kernel_values.drawn(3, 2, (5, 40), dtype, edge=False)
    words = [_bits(3, 2, number) >> 48 for number in range(200)]
    want = [(2 * word - 65535) / 32768 for word in words]
    np.testing.assert_array_equal(got.reshape(-1), np.array(want, dtype))


def test_the_edge_has_zeros_large_small_and_equal_ones():
    got = kernel_values.drawn(0, 0, (20000,), "float32", edge=True)
    assert ((got == 0) & np.signbit(got)).any() and ((got == 0) & ~np.signbit(got)).any()
    assert np.abs(got).max() > 150 and 0 < np.abs(got[got != 0]).min() < 1e-5
    ones = np.flatnonzero(got == 1)
    assert len(ones) >= 20000 // 16 or ones[-1] == 19999


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "int32", "int64", "uint64"])
def test_integers_are_indices_of_two(dtype):
    got = kernel_values.drawn(1, 4, (300,), dtype, edge=True)
    want = [_bits(1, 4, number) >> 63 for number in range(300)]
    np.testing.assert_array_equal(got, np.array(want, dtype))


def test_words_are_any_bits():
    got = kernel_values.drawn(1, 4, (300,), "uint32", edge=False)
    assert list(got) == [_bits(1, 4, number) >> 32 for number in range(300)]


@pytest.mark.parametrize("count", [1, 2048, 2049, 100003])
def test_positions_are_spread_over_all(count):
    found = kernel_values.positions(5, 1, count)
    parts = min(count, 2048)
    assert len(found) == parts
    for number, place in enumerate(found):
        begin, end = number * count // parts, (number + 1) * count // parts
        assert place == begin + _bits(5, 1, number) % (end - begin)


@pytest.fixture(scope="module")
def proof():
    return kernel_values.proof(plain(cases.product()))


def test_results_are_those_of_the_function(proof):
    reference = Reference(plain(cases.product()))
    assert json.loads(json.dumps(proof)) == proof
    assert [run["edge"] for run in proof["runs"]] == [False, True]
    for run in proof["runs"]:
        arrays = [
            np.zeros(shape, dtype)
            if place in reference.outputs
            else kernel_values.drawn(run["seed"], place, shape, dtype, edge=run["edge"])
            for place, (shape, dtype) in enumerate(reference.parameters)
        ]
        full = reference.compute(arrays)
        assert [wanted["parameter"] for wanted in run["wanted"]] == reference.outputs
        for wanted in run["wanted"]:
            array = full[wanted["parameter"]].reshape(-1)
            chosen = array[kernel_values.positions(run["seed"], wanted["parameter"], array.size)]
            values = np.frombuffer(base64.b64decode(wanted["values"]), np.float32)
            np.testing.assert_allclose(values, chosen, rtol=1e-6)
            assert wanted["scale"] == np.abs(array).max()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda proof, run, wanted: proof.pop("runs"), "no 'runs' in a tuned kernel's proof"),
        (lambda proof, run, wanted: proof.update(runs=[run] * 17), "with 17 runs"),
        (
            lambda proof, run, wanted: proof["parameters"][0].update(shape=[2**62, 4]),
            "a tuned kernel's parameter: the shape is too large",
        ),
        (
            lambda proof, run, wanted: proof["parameters"][0].update(shape=[0]),
            "parameter has no element",
        ),
        (
            lambda proof, run, wanted: proof["parameters"][0].update(dtype="int4"),
            "or is of int4",
        ),
        (lambda proof, run, wanted: run.update(wanted=[]), "run has no result"),
        (lambda proof, run, wanted: run.update(wanted=[wanted] * 2), "has two results"),
        (lambda proof, run, wanted: wanted.update(parameter=99), "no parameter 99"),
        (lambda proof, run, wanted: wanted.update(parameter=-1), "no parameter -1"),
        (lambda proof, run, wanted: wanted.update(scale=-1.0), "scale is -1"),
        (lambda proof, run, wanted: wanted.update(values="AAAA"), "result has 3 bytes"),
        (lambda proof, run, wanted: wanted.update(values="AA\x7f\x7f"), "are no base64"),
        (lambda proof, run, wanted: wanted.update(values="===="), "are no base64"),
        (lambda proof, run, wanted: wanted.update(values=""), "are no base64"),
        (
            lambda proof, run, wanted: run.update(given=[{"parameter": 0, "value": 1}]),
            "parameter 0 cannot be given",
        ),
    ],
)
def test_a_strangers_proof_is_checked_field_by_field(proof, change, said):
    runtime.load()
    proof = copy.deepcopy(proof)
    change(proof, proof["runs"][0], proof["runs"][0]["wanted"][0])
    with pytest.raises(ValueError, match=said):
        tvm.get_global_func("hetero_tvm.kernel_error")(tvm_ffi.system_lib(), "f", json.dumps(proof))
