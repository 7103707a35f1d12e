"""What is recorded at the build, and what is held against it."""

import json

import numpy as np
import pytest
import tiny_models as tiny

from hetero_tvm import reference
from hetero_tvm.errors import BadInput
from hetero_tvm.frontend.random_inputs import InputRange
from hetero_tvm.output_error import FLOAT32


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.mlp(tmp_path_factory.mktemp("reference") / "mlp.onnx", rows=600)


RANGES = (InputRange(name="x", dtype="float32", shape=(600, 32), kind="normal", size=0, values=()),)


@pytest.fixture(scope="module")
def record(model):
    return json.loads(json.dumps(reference.record(model, RANGES)))


def test_the_models_own_outputs_hold(model, record):
    outputs = reference.compute(model, reference.inputs(record, RANGES))
    (error,) = reference.check(outputs, record, FLOAT32)
    assert error.held and error.relative_error == 0
    assert len(json.dumps(record)) < 40_000  # of 9600 elements some are kept


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda y: y * 1.001, id="a_little_off_everywhere"),
        pytest.param(lambda y: np.where(np.arange(16) < 8, y, 0), id="half_of_it_missing"),
        pytest.param(lambda y: y[:300], id="another_shape"),
        pytest.param(lambda y: y.T.reshape(y.shape), id="another_order"),
    ],
)
def test_others_do_not(model, record, change):
    y = reference.compute(model, reference.inputs(record, RANGES))["y"]
    (error,) = reference.check({"y": change(y).astype(np.float32)}, record, FLOAT32)
    assert not error.held


def test_a_damaged_record_is_refused(record):
    with pytest.raises(BadInput, match="recorded outputs have y, the artefact has not"):
        reference.check({"z": np.zeros(1)}, record, FLOAT32)
    (entry,) = record["outputs"]
    with pytest.raises(BadInput, match="recorded output y is damaged"):
        reference.check({"y": np.zeros(1)}, {"outputs": [{**entry, "values": "AAAA"}]}, FLOAT32)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        reference.compute(tmp_path / "none.onnx", {})
