"""Inputs that a user gives a build: read, checked, and what they keep off the NPU."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hetero_tvm import compiler
from hetero_tvm.arguments import checked_samples
from hetero_tvm.config import BuildConfig
from hetero_tvm.errors import BadInput, WrongTensors
from hetero_tvm.frontend.tensor_spec import TensorSpec
from hetero_tvm.sample_inputs import read_sample

INPUTS = [
    TensorSpec(name="x", dtype="float32", shape=(2, 4)),
    TensorSpec(name="m", dtype="int64", shape=(2,)),
]


def test_what_is_given_is_read(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((2, 4), "float32"))
    (name,) = (found := read_sample(tmp_path / "a.npz", INPUTS))
    assert name == "x"
    assert found["x"].shape == (2, 4)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": np.ones(2)}, "no input 'z'; it has x, m"),
        ({"x": np.ones((2, 5), "float32")}, r"x is float32 \[2, 5\], and the model takes"),
        ({"x": np.ones((2, 4))}, r"x is float64 \[2, 4\], and the model takes float32"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(WrongTensors, match=words):
        read_sample(tmp_path / "a.npz", INPUTS)


def test_what_is_no_file_of_numbers_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"nothing")
    for path in (tmp_path / "a.npz", tmp_path / "b.npz"):
        with pytest.raises(WrongTensors, match=r"^--samples "):
            read_sample(path, INPUTS)


def test_samples_have_one_shape(tmp_path):
    assert checked_samples([], tmp_path / "m.onnx", None) == ()
    with pytest.raises(BadInput, match="one length"):
        checked_samples(["a.npz"], tmp_path / "m.onnx", 32)
    with pytest.raises(BadInput, match="language model takes no samples"):
        checked_samples(["a.npz"], tmp_path, None)


def test_numbers_that_float16_lacks_keep_operators_off_the_npu(tmp_path):
    """`softmax` of numbers around 10 000, where neighbours in float16 are 8 apart."""
    path = tmp_path / "m.onnx"
    value = helper.make_tensor_value_info
    onnx.save(
        helper.make_model(
            helper.make_graph(
                [helper.make_node("Softmax", ["x"], ["y"], name="soft")],
                "g",
                [value("x", TensorProto.FLOAT, [2, 4])],
                [value("y", TensorProto.FLOAT, [2, 4])],
            ),
            opset_imports=[helper.make_opsetid("", 18)],
            ir_version=9,
        ),
        path,
    )
    sample = tmp_path / "sample.npz"
    declined = {}
    for least in (0, 10000):
        np.savez(sample, x=np.float32(least) + np.arange(8, dtype="float32").reshape(2, 4))
        config = BuildConfig(
            model=path,
            target="snapdragon-8-gen-3",
            devices="npu",
            output=None,
            estimate=False,
            samples=(sample,),
        )
        (op,) = compiler.build(config).plan.ops
        declined[least] = op.declined.get("npu", "")
    assert declined[0] == ""
    assert declined[10000].startswith("float16 here alone ")
