"""Values that Python and C++ draw alike, and what a manifest says of a kernel's results."""

import base64

import numpy as np
import pytest
import tuning_cases as cases
import tvm

from hetero_tvm import expected_values, runtime
from schedules.trials import plain
from schedules.verify import Reference

DTYPES = (
    *("float16", "float32", "float64", "int8", "uint8", "bool", "int16", "uint16"),
    *("int32", "uint32", "int64", "uint64"),
)


@pytest.mark.parametrize("edge", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cpp_draws_the_same_bytes(dtype, edge):
    runtime.load()
    drawn = tvm.get_global_func("hetero_tvm.drawn_bytes")
    for seed, place in ((0, 0), (1, 2), ((1 << 32) - 1, 255)):
        want = expected_values.drawn(seed, place, 1000, dtype, edge=edge)
        assert bytes(drawn(seed, place, 1000, dtype, edge)) == want.tobytes()


def test_floats_are_spread_and_edges_are_what_kernels_fall_over():
    plain_values = expected_values.drawn(1, 0, 10_000, "float32", edge=False)
    assert -2 < plain_values.min() < -1.99 and 1.99 < plain_values.max() < 2
    assert abs(plain_values.mean()) < 0.05
    edges = expected_values.drawn(1, 0, 10_000, "float32", edge=True)
    assert np.abs(edges).max() > 150 and (edges == 0).mean() > 0.2
    assert np.signbit(edges[edges == 0]).any() and not np.signbit(edges[edges == 0]).all()
    assert not np.array_equal(
        plain_values, expected_values.drawn(2, 0, 10_000, "float32", edge=False)
    )


def test_positions_are_all_of_a_short_result_and_the_end_of_a_long_one():
    assert expected_values.positions(1, 0, 1024).tolist() == list(range(1024))
    long = expected_values.positions(1, 0, 100_000)
    assert len(long) == 1024 and long[-32:].tolist() == list(range(99_968, 100_000))
    assert 0 <= long.min() and len(set(long.tolist())) > 1000


def test_a_kernel_is_described_by_its_results():
    reference = Reference(plain(cases.product()))
    found = expected_values.described(reference)
    assert [run["edge"] for run in found["runs"]] == [False, True]
    (place,) = reference.outputs
    for run in found["runs"]:
        arrays = [
            expected_values.drawn(
                run["seed"], n, int(np.prod(shape)), dtype, edge=run["edge"]
            ).reshape(shape)
            for n, (shape, dtype) in enumerate(reference.parameters)
        ]
        want = reference.compute(arrays)[place].reshape(-1)
        (result,) = run["expected"]
        values = np.frombuffer(base64.b64decode(result["values"]))
        at = expected_values.positions(run["seed"], place, want.size)
        assert result["place"] == place and np.array_equal(values, want[at])
        assert result["largest"] == np.abs(want).max()
