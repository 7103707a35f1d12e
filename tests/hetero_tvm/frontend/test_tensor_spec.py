"""Names, types and shapes at a model's border."""

import pytest

from hetero_tvm.frontend.tensor_spec import TensorSpec, check_tensors


def test_text_is_what_the_input_flag_takes():
    assert str(TensorSpec(name="x", dtype="int64", shape=(1, 128))) == "x=1x128:int64"
    assert str(TensorSpec(name="sr", dtype="int64", shape=())) == "sr=scalar:int64"


def test_size():
    assert TensorSpec(name="x", dtype="float16", shape=(3, 5)).size_bytes == 30
    assert TensorSpec(name="x", dtype="float32", shape=()).size_bytes == 4


@pytest.mark.parametrize(
    ("dtype", "shape", "said"),
    [
        ("O", (1,), "x is of no type 'O'"),
        ("f4", (1,), "x is of no type 'f4'"),
        ("float32", (2, -1), "impossible shape"),
        ("float32", (1,) * 17, "impossible shape"),
        ("float32", (2**20, 2**20), "larger than any memory"),
        ("float32", (0, 2**62, 4), "larger than any memory"),
    ],
)
def test_what_no_tensor_is(dtype, shape, said):
    check_tensors([TensorSpec(name="x", dtype="bfloat16", shape=(0, 3))])
    with pytest.raises(ValueError, match=said):
        check_tensors([TensorSpec(name="x", dtype=dtype, shape=shape)])
