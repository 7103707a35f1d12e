"""Flags become a configuration, or one clear error."""

import argparse
from pathlib import Path

import pytest

from hetero_tvm.arguments import (
    add_model_arguments,
    add_step_arguments,
    is_folder,
    model_config,
    read_fill,
    read_lengths,
    read_share,
    read_span,
    read_steps,
)
from hetero_tvm.errors import BadInput, WrongKindOfModel


def config(*words, length=None):
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    args = parser.parse_args(words)
    args.verb = "build"
    return model_config(args, output=Path("m.so"), length=length)


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


def test_flags_of_the_planner():
    made = config("m.onnx")
    assert (made.split, made.objective, made.gpu_share) == (True, "latency", 1.0)
    made = config("m.onnx", "--no-split", "--objective", "edp", "--gpu-share", "60%")
    assert (made.split, made.objective, made.gpu_share) == (False, "edp", 0.6)


def test_a_length_stands_for_every_l():
    made = config("m.onnx", "--input", "ids=1xL:int64", "--input", "scores=LxL", length=7)
    assert (made.inputs["ids"].shape, made.inputs["ids"].dtype) == ((1, 7), "int64")
    assert made.inputs["scores"].shape == (7, 7)


def test_a_length_and_an_l_belong_together():
    with pytest.raises(BadInput, match="--input ids=1xL: L stands for the lengths of"):
        config("m.onnx", "--input", "ids=1xL")
    with pytest.raises(BadInput, match="--length needs an --input with a dimension written L"):
        config("m.onnx", "--input", "ids=1x8", length=8)
    # an input may be called L
    assert config("m.onnx", "--input", "L=1x8").inputs["L"].shape == (1, 8)


def test_lengths_are_read_once_each_in_their_order():
    assert read_lengths("1, 256,64,256") == (1, 256, 64)


@pytest.mark.parametrize("text", ["", "0", "1,", "1;2", "-4", "1.5", "²", "x"])
def test_odd_lengths_are_refused(text):
    with pytest.raises(BadInput, match="write whole numbers above 0 with commas"):
        read_lengths(text)


def test_a_share_is_a_percentage_or_a_fraction():
    assert read_share("100%") == read_share("1") == 1
    assert read_share("60%") == read_share("0.6") == 0.6
    assert read_share("12.5%") == 0.125


@pytest.mark.parametrize("text", ["0%", "101%", "60", "0", "-5%", "nan%", "nan", "%", "half"])
def test_odd_shares_are_refused(text):
    with pytest.raises(BadInput, match=f"--gpu-share {text}: write a share"):
        read_share(text)


def test_fill_values_are_read_by_name():
    assert read_fill(["a=0", "b=-1e4", "c=d=2"]) == {"a": 0.0, "b": -1e4, "c=d": 2.0}


@pytest.mark.parametrize("text", ["", "a", "a=", "=1", "a=nan", "a=inf", "a=x"])
def test_odd_fill_values_are_refused(text):
    with pytest.raises(BadInput, match=f"--pad {text}: write NAME=VALUE, as in"):
        read_fill([text])


def test_a_fill_value_given_twice_is_refused():
    with pytest.raises(BadInput, match="--pad a is given twice"):
        read_fill(["a=1", "a=1"])


def test_a_range_of_lengths():
    assert read_span(" 1 .. 512") == (1, 512)
    assert read_span("1,64,512") is None


@pytest.mark.parametrize("text", ["5..1", "5..5", "0..8", "1..", "..8", "1...8", "1..8,9", "-1..8"])
def test_wrong_ranges_are_refused(text):
    with pytest.raises(BadInput, match="write a range from a shorter to a longer length"):
        read_span(text)


def steps(model, *words):
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    add_step_arguments(parser, "lengths")
    return parser.parse_args([str(model), *words])


def test_a_folder_takes_steps_and_a_file_takes_lengths(tmp_path):
    file = tmp_path / "m.onnx"
    assert is_folder(steps(tmp_path)) and not is_folder(steps(file))
    assert not is_folder(steps(file, "--length", "4"))
    args = steps(tmp_path, "--context", "64", "--prefill", "8,16")
    assert is_folder(args) and read_steps(args) == ((8, 16), 64)
    assert read_steps(steps(tmp_path)) == (None, None)


@pytest.mark.parametrize("words", [("--context", "0"), ("--prefill", "")])
def test_steps_of_a_file_are_refused(tmp_path, words):
    with pytest.raises(WrongKindOfModel, match=f"{words[0]} is for a language model's folder; .*m"):
        is_folder(steps(tmp_path / "m.onnx", *words))


def test_what_a_folder_does_not_take(tmp_path):
    with pytest.raises(WrongKindOfModel, match=r"--length: .* folder, which takes none"):
        is_folder(steps(tmp_path, "--length", "4"))
    with pytest.raises(WrongKindOfModel, match=r"--input: .* folder, which takes none"):
        is_folder(steps(tmp_path, "--input", "x=4"), refuses=("input",))
    assert is_folder(steps(tmp_path), refuses=("input", "length"))
    with pytest.raises(BadInput, match="--prefill : write whole numbers"):
        read_steps(steps(tmp_path, "--prefill", ""))
