"""Names, types and shapes at a model's border."""

from hetero_tvm.frontend.tensor_spec import TensorSpec


def test_text_is_what_the_input_flag_takes():
    assert str(TensorSpec(name="x", dtype="int64", shape=(1, 128))) == "x=1x128:int64"
    assert str(TensorSpec(name="sr", dtype="int64", shape=())) == "sr=scalar:int64"


def test_size():
    assert TensorSpec(name="x", dtype="float16", shape=(3, 5)).size_bytes == 30
    assert TensorSpec(name="x", dtype="float32", shape=()).size_bytes == 4
