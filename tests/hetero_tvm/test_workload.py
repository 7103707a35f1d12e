"""What `bench` and `profile` run: an artefact, or a language model's phases."""

import json
from pathlib import Path

import numpy as np
import pytest
from recorded_model import artefact

import hetero_tvm
from hetero_tvm import cli, system_state, workload
from hetero_tvm.loader import load
from tests.hetero_tvm.tiny_llm import TinyLlm, build


@pytest.fixture(scope="module")
def llm(tmp_path_factory, opencl):
    folder = build(TinyLlm(window=9), tmp_path_factory.mktemp("workload") / "model")
    output = folder.parent / "llm.so"
    hetero_tvm.build(folder, target="host", output=output, devices="gpu", context=40, prefill=[4])
    return str(output)


def test_a_model_runs_what_it_was_fed():
    model = load(artefact())
    inputs = {spec.name: np.ones(spec.shape, np.float32) for spec in model.manifest.inputs}
    work = workload.ModelWorkload(model, inputs)
    assert 0 < work.measure() < 60e3
    recording = work.record(2)
    assert len(recording.bounds) == 2 and recording.lost == 0
    assert {"kernel", "region", "function"} <= {event.kind for event in recording.events}
    assert work.length is None and not work.simulated and work.gpu_name()
    assert not workload.is_llm(artefact())


def test_phases_of_a_language_model(llm):
    assert workload.is_llm(Path(llm))
    session = hetero_tvm.load_llm(llm)
    decode = workload.LlmHere(session, "decode", 11, seed=2)
    assert session.tokens == tuple(decode.prompt)
    for _ in range(3):  # always the same token, at the same place
        decode.run()
        assert len(session.tokens) == 12
    prefill = workload.LlmHere(hetero_tvm.load_llm(llm), "prefill", 11, seed=2)
    assert prefill.prompt == decode.prompt
    prefill.run()
    assert prefill.session.tokens == tuple(prefill.prompt)
    assert (prefill.length, decode.length) == (11, 1)


def test_bench_of_a_language_model(capsys, llm):
    flags = ["--prompt", "8", "--generate", "5", "--repeat", "3", "--warm-up", "1"]
    assert cli.main(["bench", llm, *flags, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    figures = data["llm"]
    assert (figures["prompt_tokens"], figures["generated_tokens"]) == (8, 5)
    assert figures["prefill_ms"]["runs"] == 3 and figures["decode_ms"]["runs"] == 3 * 4
    assert figures["prefill_tokens_per_s"] == pytest.approx(8e3 / figures["prefill_ms"]["p50"])
    whole = data["times_ms"]["p50"]
    assert figures["prefill_ms"]["p50"] < whole
    assert cli.main(["bench", llm, *flags]) == 0
    assert "8 of prompt at" in capsys.readouterr().out


@pytest.mark.parametrize(("phase", "functions"), [("prefill", 2), ("decode", 1)])
def test_profile_of_a_language_model(capsys, llm, phase, functions, tmp_path):
    path = tmp_path / "t.json"
    flags = ["--prompt", "8", "--phase", phase, "--runs", "2", "--trace", str(path)]
    assert cli.main(["profile", llm, *flags, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["length"] == (8 if phase == "prefill" else 1)
    assert data["summary"]["busy_us"]["gpu"] > 0
    events = json.loads(path.read_text())["traceEvents"]
    assert sum(e.get("cat") == "function" for e in events) == 2 * functions


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["bench", "--prompt", "40"], "--prompt 40: 1 to 39 tokens"),
        (["bench", "--prompt", "36", "--generate", "5"], "there is room for 4"),
        (["bench", "--generate", "0"], "--generate 0: at least 1"),
        (["profile", "--length", "4"], "is a language model: use --prompt"),
    ],
)
def test_what_does_not_fit_a_language_model(capsys, llm, flags, said):
    assert cli.main([flags[0], llm, *flags[1:]]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["bench", "--prompt", "4"], "is no language model; use --length"),
        (["bench", "--generate", "4"], "is no language model"),
        (["profile", "--phase", "decode"], "is no language model"),
    ],
)
def test_what_only_a_language_model_has(capsys, flags, said):
    assert cli.main([flags[0], str(artefact()), *flags[1:]]) == 2
    assert said in capsys.readouterr().err


def test_bench_on_a_device(hetero, deployed_here):
    flags = ("--to", deployed_here.address, "--repeat", 4, "--warm-up", 1)
    done = hetero("bench", deployed_here.artefact, *flags, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["times_ms"]["runs"] == 4 and done.json["times_ms"]["min"] > 0
    assert done.json["peak_memory_bytes"] > 10e6  # of the program there
    here = system_state.machine()
    assert done.json["machine"] == {**here, "opencl": done.json["machine"]["opencl"]}
    assert done.json["machine"]["opencl"]


def test_profile_on_a_device(hetero, deployed_here, tmp_path):
    trace = tmp_path / "t.json"
    flags = ("--to", deployed_here.address, "--runs", 3, "--trace", trace, "--json")
    done = hetero("profile", deployed_here.artefact, *flags)
    assert done.returncode == 0, done.stderr
    calls = {row["call"]["device"]: row["us"] for row in done.json["summary"]["calls"]}
    assert calls and all(us > 0 for us in calls.values())
    assert done.json["plain_run_us"] > 0
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event.get("cat") == "function" for event in events) == 3


def test_the_opencl_device_there_is_named_when_deploying(capsys):
    for verb in ("bench", "profile", "run"):
        flags = ["--to", "ssh://board", "--device", "0"]
        assert cli.main([verb, str(artefact()), *flags]) == 2
        assert "name the device's OpenCL when you deploy" in capsys.readouterr().err


def test_debug_refuses_a_language_model(capsys, llm):
    assert cli.main(["debug", llm, "--against", "model.onnx"]) == 2
    assert "language model" in capsys.readouterr().err
