"""A language model in another process, asked from here."""

import json
import os
import signal
import subprocess
import sys
import time

import device_fixture
import numpy as np
import pytest
import tvm_ffi

import hetero_tvm
from hetero_tvm import cli, errors, runtime
from hetero_tvm.errors import BadInput, DeviceFailure
from hetero_tvm.open_model import opened, opened_llm
from hetero_tvm.remote_llm import _packed
from hetero_tvm.transports.local import Local
from tests.hetero_tvm.tiny_llm import Reference, TinyLlm, build

PROMPT = [5, 9, 33, 60, 2, 17, 41]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """(folder, artefact, root) of a model that is deployed on a folder of this machine."""
    try:
        runtime.open_opencl()
    except errors.EnvironmentProblem as problem:
        pytest.skip(str(problem))
    folder = build(TinyLlm(layers=1), tmp_path_factory.mktemp("llm") / "model")
    artefact, root = folder.parent / "llm.so", folder.parent / "device"
    hetero_tvm.build(folder, target="host", output=artefact, devices="gpu", context=90, prefill=[4])
    done = device_fixture.deploy(artefact, Local(root), folder.parent, name="llm")
    assert [part.held for part in done.parts] == [True] * 3
    return folder, artefact, root


@pytest.fixture(scope="module")
def address(there):
    return f"local:{there[2]}"


def test_logits_are_those_of_the_session_here(there, address):
    here = hetero_tvm.load_llm(there[1])
    with opened_llm(there[1], address) as session:
        for tokens in (PROMPT, [1], PROMPT[:3]):
            np.testing.assert_allclose(session.prefill(tokens), here.prefill(tokens), atol=1e-5)
        session.reset(2)
        here.reset(2)
        np.testing.assert_allclose(session.decode(7), here.decode(7), atol=1e-5)
        assert session.tokens == here.tokens and session.load_seconds > 0
        assert session.surroundings.peak_bytes() > 1e6


def test_tokens_are_those_of_onnx_runtime(there, address, hetero):
    wanted = Reference(there[0] / "model.onnx").greedy(PROMPT, 12)
    ids = ",".join(map(str, PROMPT))
    flags = ("--ids", ids, "--max-new-tokens", 12)
    done = hetero("generate", there[1], "--to", address, *flags, "--json")
    here = hetero("generate", there[1], *flags, "--json")
    assert done.returncode == 0 and done.json["tokens"] == wanted == here.json["tokens"]
    assert list(done.json) == list(here.json)
    script = there[2] / "bundles" / "llm" / "run"
    alone = subprocess.run([script, *map(str, flags)], capture_output=True, text=True, check=False)
    assert alone.stdout == ",".join(map(str, wanted)) + "\n", alone.stderr
    none_given = subprocess.run([script], capture_output=True, text=True, check=False)
    assert none_given.returncode == 0 and none_given.stdout.count(",") > 0


def test_what_the_program_there_refuses(there, address):
    with opened_llm(there[1], address) as session:
        for words in (
            [4, 0],
            [4, 0, 5, 1, 2, 3, 4, 5],
            [3, 0, 1, 1],
            [4, 89, 2, 1, 1],
            [1, 0, 1, 64],
        ):
            with pytest.raises(DeviceFailure):
                with session._session.failures():
                    session._function(np.array(words, "<i8").tobytes(), True)
        session.prefill(PROMPT)  # none of it harmed the session


def test_each_kind_of_model_is_opened_by_its_own_name(there, address, deployed_here):
    with pytest.raises(BadInput, match="a language model; `hetero-tvm generate`"):
        with opened(there[1], address):
            pass
    with pytest.raises(BadInput, match="not a language model; run it with"):
        with opened_llm(deployed_here.artefact, deployed_here.address):
            pass


def test_a_device_that_is_not_there_is_named(there, hetero, monkeypatch):
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")
    done = hetero("generate", there[1], "--to", "adb:gone", "--ids", "1")
    assert done.returncode == 4
    assert "adb" in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_ends_the_program_there_too(there, address):
    words = ["generate", str(there[1]), "--to", address, "--ids", "1", "--max-new-tokens", "89"]
    with subprocess.Popen(
        [sys.executable, "-m", "hetero_tvm", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        first = process.stdout.read(1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all that it started
        out, said = process.communicate(timeout=60)
    assert first.isdigit() and out.endswith(b"\n"), said
    # So short a text may have been finished before the signal came.
    assert process.returncode == (130 if b"ended by Ctrl-C" in said else 0), said
    program = str(next(there[2].glob("store/*/hetero_device")))
    end = time.monotonic() + 20
    while subprocess.run(["pgrep", "-f", program], capture_output=True, check=False).stdout:
        assert time.monotonic() < end, "its program is still there"
        time.sleep(0.1)


def test_float16_logits_are_those_of_the_session_here(tmp_path):
    folder = build(TinyLlm(layers=1, packed=False, dtype="float16"), tmp_path / "model")
    artefact = tmp_path / "half.so"
    hetero_tvm.build(folder, target="host", output=artefact, devices="gpu", context=40, prefill=[4])
    here = hetero_tvm.load_llm(artefact)
    # What a device's program offers, in this process.
    step = tvm_ffi.get_global_func("hetero_tvm.language_model")(str(artefact))
    for past, tokens in ((0, PROMPT[:4]), (4, PROMPT[4:5])):
        found = step(_packed([(len(tokens), tokens)], past), True)
        wanted = here.prefill(tokens)
        assert (
            wanted.dtype == np.float32 and here.manifest.variants[0].outputs[0].dtype == "float16"
        )
        np.testing.assert_array_equal(np.frombuffer(bytes(found), "<f4"), wanted)


def test_bench_and_profile_measure_there(there, address, capsys):
    flags = ["--to", address, "--prompt", "6", "--json"]
    words = [str(there[1]), *flags]
    assert cli.main(["bench", *words, "--generate", "4", "--repeat", "2", "--warm-up", "0"]) == 0
    data = json.loads(capsys.readouterr().out)
    figures = data["llm"]
    assert (figures["prompt_tokens"], figures["generated_tokens"]) == (6, 4)
    assert figures["prefill_ms"]["runs"] == 2 and figures["decode_ms"]["runs"] == 2 * 3
    assert 0 < figures["prefill_ms"]["p50"] < data["times_ms"]["p50"]
    assert data["machine"]["opencl"] and data["peak_memory_bytes"] > 1e6
    for phase, functions in (("prefill", 2), ("decode", 1)):  # 6 tokens in steps of 4
        assert cli.main(["profile", *words, "--phase", phase, "--runs", "2"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert data["length"] == (6 if phase == "prefill" else 1)
        assert len(data["functions"]) == functions and data["lost_events"] == 0
        assert data["summary"]["busy_us"]["gpu"] > 0


def test_measuring_leaves_what_came_before(there, address):
    here = hetero_tvm.load_llm(there[1])
    with opened_llm(there[1], address) as session:
        session.prefill(PROMPT)
        here.prefill(PROMPT)
        steps = [(1, [3]), (1, [4])]
        assert all(ms > 0 for ms in session.measure(steps, 5)) and session.tokens == (*PROMPT[:5],)
        here.reset(5)
        np.testing.assert_allclose(session.decode(9), here.decode(9), atol=1e-5)
