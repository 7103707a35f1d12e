"""A language model built here for 64-bit ARM, deployed over ssh, and asked from here."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hetero_tvm.config import BuildConfig
from hetero_tvm.llm_build import build
from tests.hetero_tvm.tiny_llm import Reference, TinyLlm
from tests.hetero_tvm.tiny_llm import build as write_folder

ADDRESS = "ssh://emulated"
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module")
def deployed(hetero, login, tmp_path_factory):
    """(folder, artefact) of a model with random weights that is on the device."""
    folder = write_folder(TinyLlm(), tmp_path_factory.mktemp("llm") / "model")
    artefact = folder.parent / "llm.so"
    config = BuildConfig(model=folder, target="host", output=artefact, os="linux-aarch64")
    build(config, prefill=[8], capacity=90)
    done = hetero("deploy", artefact, "--to", ADDRESS, "--json", env=login)
    assert done.returncode == 0, done.stderr
    held = {part["part"]: part["held"] for part in done.json["parts"]}
    assert held == {"cpu": True, "gpu": True, "npu": True, "model": True}
    return folder, artefact


@pytest.mark.nightly
def test_a_language_model_says_there_what_onnxruntime_says_here(
    hetero, deployed, login, emulated_device
):
    folder, artefact = deployed
    wanted = Reference(folder / "model.onnx").greedy(PROMPT, 20)
    flags = ("--ids", ",".join(map(str, PROMPT)), "--max-new-tokens", 20)
    there = hetero("generate", artefact, "--to", ADDRESS, *flags, "--json", env=login)
    assert there.returncode == 0 and there.json["tokens"] == wanted, there.stderr
    assert there.json["peak_memory_bytes"] > 1e6
    # The command that the deployment left, without anything of ours here.
    words = " ".join(map(str, flags))
    alone = emulated_device.run(f".hetero_tvm/bundles/llm/run {words}")
    assert alone.stdout.strip() == ",".join(map(str, wanted))


@pytest.mark.nightly
def test_ctrl_c_ends_it_on_both_sides(deployed, login, emulated_device):
    _, artefact = deployed
    words = ["generate", str(artefact), "--to", ADDRESS, "--ids", "1", "--max-new-tokens", "89"]
    with subprocess.Popen(
        [sys.executable, "-m", "hetero_tvm", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **login},
        start_new_session=True,
    ) as process:
        first = process.stdout.read(1)  # it streams: more is still to come
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, said = process.communicate(timeout=60)
    assert first.isdigit() and out.endswith(b"\n"), said
    assert process.returncode == 130 and b"ended by Ctrl-C" in said, said
    assert out.count(b",") < 88
    end = time.monotonic() + 30
    while emulated_device.run("pgrep -x hetero_device", check=False).stdout:
        assert time.monotonic() < end, "its program is still there"
        time.sleep(1)
