"""Flags become a configuration, or one clear error."""

import argparse
from pathlib import Path

import pytest

from hetero_tvm.arguments import add_model_arguments, model_config
from hetero_tvm.errors import BadInput


def config(*words):
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    args = parser.parse_args(words)
    args.verb = "build"
    return model_config(args, output=Path("m.so"))


def test_flags_become_a_configuration():
    made = config("m.onnx", "-t", "host", "--input", "x=1x2", "--input", "y=scalar:int64")
    assert (made.model, made.target, made.devices) == (Path("m.onnx"), "host", "gpu+npu")
    assert made.inputs["x"].shape == (1, 2)
    assert (made.inputs["y"].shape, made.inputs["y"].dtype) == ((), "int64")


def test_an_input_given_twice_is_refused():
    with pytest.raises(BadInput, match="--input x is given twice"):
        config("m.onnx", "--input", "x=1x2", "--input", "x=1x3")


def test_a_missing_model_shows_the_usage():
    with pytest.raises(BadInput, match=r"no model given; usage: hetero-tvm build MODEL\.onnx"):
        config("-t", "host")
