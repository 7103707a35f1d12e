"""A deployment over ssh on a machine with another processor: every part of it, nothing twice."""

import re

import pytest
import tiny_models as tiny

from hetero_tvm import compiler
from hetero_tvm.config import BuildConfig

ADDRESS = "ssh://emulated"
LIMIT_S = 600  # from the artefact to right numbers from there, on two cores


# Half a minute, most of it the emulated processor's encryption and LLVM's work on it.
@pytest.mark.nightly
def test_a_model_built_here_is_pushed_tried_and_right_there(
    hetero, emulated_device, login, tmp_path
):
    artefact = tmp_path / "mlp.so"
    model = tiny.mlp(tmp_path / "mlp.onnx")
    compiler.build(BuildConfig(model=model, target="host", output=artefact, os="linux-aarch64"))
    first = hetero("deploy", artefact, "--to", ADDRESS, env=login)
    assert first.returncode == 0, first.stderr
    for part in ("cpu", "gpu", "npu", "model"):
        assert re.search(rf"^{part} +held", first.stdout, re.MULTILINE), first.stdout
    second = hetero("deploy", artefact, "--to", ADDRESS, env=login)
    assert second.returncode == 0 and "pushed 0.0 kB of" in second.stdout, second.stdout
    libraries = float(re.search(r"libraries take ([\d.]+) MB there", second.stdout)[1])
    assert libraries <= 40
    # PoCL keeps what it compiled itself; a binary for us would have to be compiled again.
    assert "clbin" not in emulated_device.run("ls -R .hetero_tvm/cache 2>/dev/null; true").stdout


@pytest.mark.nightly
def test_a_sentence_encoder_is_right_there_in_time(hetero, built, model_path, login):
    inputs = ("input_ids=1x128", "attention_mask=1x128")
    artefact, report = built("minilm", "host", inputs, "--os", "linux-aarch64")
    assert report["npu_regions"] > 1 and artefact.stat().st_size > 50e6
    done = hetero("deploy", artefact, "--to", ADDRESS, "--json", env=login, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert [part["held"] for part in done.json["parts"]] == [True] * 4
    model = model_path("minilm")
    flags = ("--to", ADDRESS, "--seed", 7, "--repeat", 0, "--compare", model, "--json")
    ran = hetero("run", artefact, *flags, env=login)
    assert ran.returncode == 0 and ran.json["held"], ran.stderr


@pytest.mark.nightly
def test_without_opencl_it_says_so_and_runs_on_the_cpu_where_that_is_allowed(
    hetero, login, tmp_path
):
    artefact, model = tmp_path / "cpu.so", tiny.mlp(tmp_path / "mlp.onnx")
    config = BuildConfig(
        model=model, target="host", output=artefact, os="linux-aarch64", with_fallback=True
    )
    compiler.build(config)
    to = (artefact, "--to", ADDRESS)
    without = ("--opencl-library", "/no-such.so")
    refused = hetero("deploy", *to, *without, env=login)
    assert refused.returncode == 4, refused.stderr
    assert "no OpenCL device: install a driver" in refused.stderr
    assert "or let its CPU do that with --allow-fallback" in refused.stderr
    done = hetero("deploy", *to, *without, "--allow-fallback", env=login)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^model +held", done.stdout, re.MULTILINE), done.stdout
    assert "FALLBACK: the CPU computes the whole model there: its GPU failed: no Op" in done.stdout
    ran = hetero("run", *to, "--seed", 7, "--compare", model, "--json", env=login)
    assert ran.returncode == 0 and ran.json["held"], ran.stderr
    assert "no OpenCL device" in ran.json["fallbacks"][0]
