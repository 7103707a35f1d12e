"""Real models with real weights, for the host's stand-ins and for a Snapdragon on its simulator.

Tolerances. `host` computes in float32: relative error (ratio of L2 norms) 1e-4. The HTP computes in
float16: relative error 1e-2 and cosine 0.9999. Both against ONNX Runtime on the original file.
"""

import importlib.util

import pytest
from models import MODELS

SEEDS = (0, 1, 2)
CASES = [
    pytest.param(name, MODELS[name].inputs, id=name) for name in MODELS if name != "minilm"
] + [
    pytest.param(
        "minilm",
        (f"input_ids=1x{length}", f"attention_mask=1x{length}"),
        id=f"minilm-{length}",
    )
    for length in (16, 128)
]
HAS_QNN = importlib.util.find_spec("onnxruntime_qnn") is not None
needs_qnn = pytest.mark.skipif(not HAS_QNN, reason="onnxruntime-qnn is not installed")


def check_placement(report):
    macs = report["placement"]["macs"]
    assert sum(macs.values()) > 0
    assert macs["cpu"] <= 0.1 * sum(macs.values())
    for refusal in report["placement"]["refused"]:
        assert refusal["reason"]


def check_host(hetero, model_path, artefact, name):
    for seed in SEEDS:
        done = hetero("run", artefact, "--compare", model_path(name), "--seed", seed, "--json")
        assert done.returncode == 0, done.stderr + done.stdout
        assert done.json["held"] is True
        assert done.json["simulated"] is False
        assert done.json["outputs"]
        for output in done.json["outputs"]:
            assert output["relative_error"] <= 1e-4, output


@pytest.mark.parametrize(("name", "inputs"), CASES)
def test_host(hetero, built, model_path, name, inputs):
    artefact, report = built(name, "host", inputs)
    check_placement(report)
    check_host(hetero, model_path, artefact, name)


@pytest.mark.parametrize("devices", ["gpu", "npu"])
@pytest.mark.parametrize("name", MODELS)
def test_each_device_alone_on_the_host(hetero, built, model_path, name, devices):
    """Whatever the plan chose above, both devices' versions of every operator are right."""
    artefact, report = built(name, "host", None, "--devices", devices, "--no-check")
    macs = report["placement"]["macs"]
    assert macs[devices] >= 0.9 * sum(macs.values())
    check_host(hetero, model_path, artefact, name)


@needs_qnn
@pytest.mark.parametrize(("name", "inputs"), CASES)
def test_snapdragon_on_the_simulator(hetero, built, model_path, name, inputs):
    artefact, report = built(name, "snapdragon-8-gen-3", inputs)
    check_placement(report)
    macs = report["placement"]["macs"]
    if name != "silero-vad":  # 1.3 million MACs: less than it costs to wake the NPU
        assert report["npu_regions"] > 0
    if name == "minilm":
        assert macs["npu"] >= 0.6 * sum(macs.values())
    for seed in SEEDS:
        done = hetero("run", artefact, "--compare", model_path(name), "--seed", seed, "--json")
        assert done.returncode == 0, done.stderr + done.stdout
        assert done.json["held"] is True
        assert done.json["simulated"] is True
        for output in done.json["outputs"]:
            assert output["relative_error"] <= 1e-2, output
            assert output["cosine"] >= 0.9999, output


def test_one_artefact_on_both_devices_without_copies(hetero, built):
    """GPU and NPU take turns on one memory: nothing is copied between them."""
    artefact, report = built("minilm", "host", None, "--devices", "npu", "--no-check")
    assert {"gpu", "npu"} <= {op["device"] for op in report["placement"]["operators"]}
    done = hetero("run", artefact, "--json", "--repeat", 3)
    assert done.returncode == 0, done.stderr
    assert done.json["per_run"]["npu_runs"] >= 1
    assert done.json["per_run"]["kernel_launches"] >= 1
    assert done.json["per_run"]["bytes_copied"] == 0
