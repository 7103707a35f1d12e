"""Weights of several regions: what is shared, what stays, and that the runtime finds it again."""

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper

from hetero_tvm import errors, npu_weights, runtime
from relay_passes.lower_npu import TensorSpec
from relay_passes.npu_onnx import OUTSIDE_FILE, OutsideWeight

LARGE = np.arange(64 * 32, dtype="float32").reshape(64, 32)


def model(rows, weight, name="w"):
    """`out0` [rows, 32] = `in0` [rows, 64] @ weight."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["in0", name], ["out0"])],
        "region",
        [helper.make_tensor_value_info("in0", TensorProto.FLOAT, [rows, 64])],
        [helper.make_tensor_value_info("out0", TensorProto.FLOAT, [rows, 32])],
        [numpy_helper.from_array(weight, name)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return made.SerializeToString()


def test_what_two_models_hold_is_stored_once():
    before = [model(1, LARGE), model(2, LARGE, name="other"), model(3, LARGE + 1)]
    models, file = npu_weights.share(before)
    assert file == LARGE.tobytes()
    assert sum(map(len, models[:2])) < 1000
    assert models[2] == before[2]  # nobody else has its weight
    (weight,) = onnx.ModelProto.FromString(models[1]).graph.initializer
    assert {e.key: e.value for e in weight.external_data} == {
        "location": "weights",
        "offset": "0",
        "length": str(LARGE.nbytes),
    }


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param([LARGE], id="one_model"),
        pytest.param([LARGE, LARGE + 1], id="nothing_in_common"),
        pytest.param([np.ones((64, 2), "float32")] * 2, id="too_small"),
    ],
)
def test_models_are_left_alone(weights):
    before = [model(i + 1, weight) for i, weight in enumerate(weights)]
    assert npu_weights.share(before) == (before, b"")


class Region:
    """What the runtime asks of one."""

    def __init__(self, rows, weight):
        self.symbol, self.onnx = f"rows_{rows}", model(rows, weight)
        self.inputs = (TensorSpec("in0", "float32", (rows, 64)),)
        self.outputs = (TensorSpec("out0", "float32", (rows, 32)),)


def test_shared_weights_run_also_after_saving():
    module = runtime.npu_module([Region(1, LARGE), Region(2, LARGE)], "cpu", {"threads": "1"})
    saved = tvm.get_global_func("hetero_tvm.module_bytes")(module)
    assert len(saved) < 1.5 * LARGE.nbytes
    loaded = tvm.get_global_func("ffi.Module.load_from_bytes.hetero_npu")(saved)
    for candidate in (module, loaded):
        for rows in (1, 2):
            x = np.random.default_rng(rows).standard_normal((rows, 64), np.float32)
            y = tvm.runtime.tensor(np.zeros((rows, 32), "float32"), tvm.cpu())
            candidate[f"rows_{rows}"](tvm.runtime.tensor(x, tvm.cpu()), y)
            np.testing.assert_allclose(y.numpy(), x @ LARGE, rtol=1e-4)


def test_a_file_that_is_missing_is_refused():
    create = tvm.get_global_func("hetero_tvm.npu_module_create")
    with pytest.raises(ValueError, match="describes more files than there are"):
        create('{"regions": [], "files": ["weights"]}', [])
    with pytest.raises(ValueError, match="the name of a file is not a string"):
        create('{"regions": [], "files": [3]}', [b""])


PAGE = 4096


class Outside(Region):
    """With its weight at `offset` of a file."""

    def __init__(self, rows, weight, offset):
        super().__init__(rows, weight)
        model = onnx.ModelProto.FromString(self.onnx)
        (tensor,) = model.graph.initializer
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=OUTSIDE_FILE)
        self.onnx = model.SerializeToString()
        self.outside = [
            OutsideWeight(name="w", dtype="float32", shape=weight.shape, number=0, offset=offset)
        ]


def run(module, rows):
    """What it makes of random numbers, and these."""
    x = np.random.default_rng(rows).standard_normal((rows, 64), np.float32)
    y = tvm.runtime.tensor(np.zeros((rows, 32), "float32"), tvm.cpu())
    module[f"rows_{rows}"](tvm.runtime.tensor(x, tvm.cpu()), y)
    return y.numpy(), x


@pytest.fixture
def saved():
    """Two regions, each with a weight of its own, as they are stored."""
    regions = [Outside(1, LARGE, 0), Outside(2, LARGE + 1, LARGE.nbytes)]
    module = runtime.npu_module(regions, "cpu", {"threads": "1"})
    return tvm.get_global_func("hetero_tvm.module_bytes")(module)


def loaded(saved):
    return tvm.get_global_func("ffi.Module.load_from_bytes.hetero_npu")(saved)


def test_outside_weights_are_read_from_the_file_that_is_mapped(saved, tmp_path):
    assert len(saved) < 3000  # no weight in it
    file = tmp_path / "artefact"
    file.write_bytes(bytes(PAGE) + LARGE.tobytes() + (LARGE + 1).tobytes())
    module = loaded(saved)
    for _ in range(2):  # the second time does nothing
        runtime.map_npu_weights(module, file, offset=PAGE, nbytes=2 * LARGE.nbytes)
    file.unlink()  # what is mapped stays
    for rows, weight in ((1, LARGE), (2, LARGE + 1)):
        found, x = run(module, rows)
        np.testing.assert_allclose(found, x @ weight, rtol=1e-4, atol=1e-2)


def test_outside_weights_that_cannot_be_found(saved, tmp_path):
    with pytest.raises(ValueError, match="its weights lie in the artefact, and nobody has mapped"):
        run(loaded(saved), 1)
    file = tmp_path / "artefact"
    with pytest.raises(errors.EnvironmentProblem, match=r"artefact: its weights .* cannot be map"):
        runtime.map_npu_weights(loaded(saved), file, offset=0, nbytes=LARGE.nbytes)
    file.write_bytes(LARGE.tobytes())
    short = loaded(saved)
    runtime.map_npu_weights(short, file, offset=0, nbytes=LARGE.nbytes)
    run(short, 1)
    with pytest.raises(ValueError, match=r"weight 'w' .* lies outside of the artefact"):
        run(short, 2)
