import dataclasses

import numpy as np
import on_gpu
import pytest
import tuning_cases as cases
from tvm import relax

from schedules.trials import plain
from schedules.verify import Reference, relative_error, verify


def test_the_reference_is_float64():
    reference = Reference(plain(cases.product()))
    assert reference.is_wide
    arrays = reference.draw(1, edge=False)
    weight = arrays[1].astype(np.float64)  # [panels, depth, lanes]
    flat = weight.transpose(1, 0, 2).reshape(40, -1)[:, :64]
    want = np.maximum(arrays[0].astype(np.float64) @ flat, 0)
    np.testing.assert_allclose(reference.compute(arrays)[2], want, rtol=1e-12, atol=1e-12)


def test_inputs_are_fresh_and_edges_are_there():
    reference = Reference(plain(cases.addition()))
    first, second = reference.draw(1, edge=False), reference.draw(2, edge=False)
    assert not np.array_equal(first[0], second[0])
    edge = reference.draw(1, edge=True)[0]
    assert (edge == 0).any() and (edge == 1).any() and np.abs(edge).max() > 50
    assert (first[2] == np.float32(-3e38)).all()


def _pool(**more):
    return cases.FakePool(cases.addition(), **more)


def test_right_and_wrong():
    func, job = cases.addition(), cases.job(cases.addition())
    reference = Reference(plain(func))
    assert verify(reference, job.default, _pool().outputs, 1).good
    verdict = verify(reference, job.default, _pool(wrong=lambda mod: True).outputs, 1)
    assert not verdict.good and "wrong on random values" in verdict.reason


def test_one_wrong_number_is_found():
    job, pool = cases.job(cases.addition()), _pool()

    def run(mod, inputs):
        found = pool.outputs(mod, inputs)
        found.arrays[2][3, 5] += 1e-2
        return found

    assert not verify(Reference(plain(cases.addition())), job.default, run, 1).good


def test_a_result_that_is_not_written_is_found():
    job, pool = cases.job(cases.addition()), _pool()

    def run(mod, inputs):
        return dataclasses.replace(pool.outputs(mod, inputs), arrays={2: inputs[2]})

    assert not verify(Reference(plain(cases.addition())), job.default, run, 1).good


def test_what_is_wrong_on_edge_values_only_is_found():
    job, pool = cases.job(cases.addition()), _pool()

    def run(mod, inputs):
        found = pool.outputs(mod, inputs)
        found.arrays[2][np.abs(inputs[0]) > 50] = 0
        return found

    verdict = verify(Reference(plain(cases.addition())), job.default, run, 1)
    assert not verdict.good and "edge values" in verdict.reason


@pytest.mark.parametrize(
    ("got", "want", "error"),
    [
        pytest.param([1.0, 2.0], [1.0, 2.0], 0.0, id="equal"),
        pytest.param([1.0, 2.2], [1.0, 2.0], 0.1, id="relative_to_the_largest"),
        pytest.param([np.nan], [np.nan], 0.0, id="both_nan"),
        pytest.param([np.nan, 1], [1.0, 1], np.inf, id="nan_where_a_number_is"),
        pytest.param([np.inf], [1e300], 0.0, id="beyond_float32"),
        pytest.param([-np.inf], [1e300], np.inf, id="infinite_with_the_wrong_sign"),
    ],
)
def test_errors(got, want, error):
    found = relative_error(np.array(got, np.float32), np.array(want, np.float64))
    assert found == pytest.approx(error, rel=1e-5)


def test_integers_are_exact():
    assert relative_error(np.array([1, 2]), np.array([1, 3])) == 1.0
    assert relative_error(np.array([True]), np.array([1])) == 0.0


@pytest.mark.parametrize("make", [lambda x: relax.op.nn.softmax(x), lambda x: relax.op.erf(x)])
def test_defaults_pass_on_the_device(make):
    """What a build uses is right by this measure too."""
    from hetero_tvm import runtime
    from schedules.measure import Outcome
    from schedules.trials import TrialDevice

    device = TrialDevice(None, on_gpu.device(), runtime.sync)

    def run(mod, inputs):
        given = [device.tensor(array) for array in inputs]
        device.load(mod, cases.TARGET)["main"](*given)
        runtime.sync()
        return Outcome(arrays={n: tensor.numpy() for n, tensor in enumerate(given)})

    for func in cases.unscheduled(make, ((6, 37), "float32")):
        verdict = verify(Reference(plain(func)), cases.job(func).default, run, 4)
        assert verdict.good, verdict
