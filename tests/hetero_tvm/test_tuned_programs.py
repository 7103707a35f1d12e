"""Tuning and building must mean the same kernels, whatever a model becomes."""

import argparse

import pytest
import tiny_models

import hetero_tvm
from hetero_tvm import compiler
from hetero_tvm.arguments import add_model_arguments, add_step_arguments
from hetero_tvm.errors import BadInput
from hetero_tvm.progress import Progress
from hetero_tvm.tuned_programs import configs_of, jobs_of
from tests.hetero_tvm.tiny_llm import TinyLlm, build

GPU = ("--target", "host", "--devices", "gpu")


def _args(*words):
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    add_step_arguments(parser, "lengths")
    return parser.parse_args([*map(str, words), *GPU], argparse.Namespace(verb="tune"))


def _jobs(*words):
    configs = configs_of(_args(*words))
    progress = Progress(quiet=True)
    costs = compiler.prepare(next(iter(configs.values())), progress)
    return jobs_of(configs, costs, progress)


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    return tiny_models.mlp(tmp_path_factory.mktemp("mlp") / "mlp.onnx", free_rows=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(
        TinyLlm(layers=2, hidden=32, inner=32, vocabulary=32),
        tmp_path_factory.mktemp("llm") / "model",
    )


def test_lengths_are_tuned_together(mlp, tmp_path):
    jobs = _jobs(mlp, "--input", "x=Lx32", "--length", "4,8")
    rows = {job.kernel.parameters[0][0][0] for job in jobs}
    assert rows == {4, 8}
    (tmp_path / "db").mkdir()
    result = hetero_tvm.build(
        mlp,
        target="host",
        devices="gpu",
        inputs={"x": ("L", 32)},
        length=[4, 8],
        db=tmp_path / "db",
        output=tmp_path / "m.so",
    )
    assert {use.key for use in result.kernels} == {job.kernel.key for job in jobs}


def test_equal_kernels_of_lengths_are_one(mlp):
    once = _jobs(mlp, "--input", "x=4x32")
    twice = _jobs(mlp, "--input", "x=Lx32", "--length", "4,4")
    assert [job.kernel for job in twice] == [job.kernel for job in once]


def test_every_step_of_a_language_model(folder, tmp_path):
    jobs = _jobs(folder, "--context", 24, "--prefill", "8")
    rows = {job.kernel.parameters[0][0][-2] for job in jobs if "matmul" in job.kernel.name}
    assert rows >= {1, 8}
    assert max(job.calls for job in jobs) >= 2  # two layers, one kernel
    (tmp_path / "db").mkdir()
    result = hetero_tvm.build(
        folder,
        target="host",
        devices="gpu",
        context=24,
        prefill=[8],
        db=tmp_path / "db",
        output=tmp_path / "llm.so",
        check=False,
    )
    keys = {job.kernel.key for job in jobs}
    used = {use.key: use.ops for use in result.kernels}
    # Attention behind one token is tuned as a whole; without a record it is two kernels, of which
    # the first one's results are no operator's. What finds the row of the logits takes a number, of
    # which there is nothing to tune.
    (step,) = {job.kernel.key for job in jobs if job.kernel.name == "attention_step"}
    assert keys - used.keys() == {step}
    assert {ops for key, ops in used.items() if key not in keys} == {("logits_row",), ()}
    assert result.manifest.kernels


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--context", "24"), "--context is for a language model's folder"),
        (("--prefill", "8"), "--prefill is for a language model's folder"),
        (("--length", "4,x", "--input", "x=Lx32"), "--length 4,x: write whole numbers"),
        (("--length", "4"), "--length needs an --input with a dimension written L"),
    ],
)
def test_flags_of_a_file(mlp, words, said):
    with pytest.raises(BadInput, match=said):
        configs_of(_args(mlp, *words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--length", "4"), "a language model's folder, which takes none"),
        (("--input", "x=4"), "a language model's folder, which takes none"),
        (("--context", "1"), "--context 1: the model takes 2 to 96"),
        (("--dtype", "float16"), "--dtype float16: language models are stored"),
    ],
)
def test_flags_of_a_folder(folder, words, said):
    with pytest.raises(BadInput, match=said):
        configs_of(_args(folder, *words))
