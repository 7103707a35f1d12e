"""The verb: its words, its JSON, its trace, its refusals."""

import json

import pytest
import tiny_models as tiny
from test_trace import check_schema

from tests.hetero_tvm.tiny_llm import TinyLlm, build

MODES = ["gpu", "npu", "layer", "split"]


def test_language_model_as_json_with_a_trace(hetero, tmp_path):
    done = hetero(
        "simulate", "--target", "snapdragon", "--llm", "internlm2-1.8b", "--prompt", "256",
        "--decode", "32", "--json", "--trace", tmp_path / "trace.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "snapdragon stands for snapdragon-8-gen-3" in done.stderr
    found = done.json
    assert (found["schema_version"], found["verb"]) == (1, "simulate")
    assert (found["target"], found["provenance"]) == ("snapdragon-8-gen-3", "simulated")
    assert (found["fast_sync"], found["npu_policy"], found["prompt"]) == (True, "plan", 256)
    assert list(found["modes"]) == MODES
    for mode in found["modes"].values():
        assert mode["provenance"] == "simulated"
        for phase, tokens in (("prefill", 256), ("decode", 1)):
            passed = mode[phase]
            assert mode[f"{phase}_tokens_per_s"] == pytest.approx(tokens / passed["us"] * 1e6)
            assert passed["waits"] >= 1
            assert passed["memory_bytes"] > 0
            assert all(0 <= share <= 1 for share in passed["busy_share"].values())
            assert sum(passed["operators"].values()) == 24 * 9 + 3
        assert mode["predicted_us"] == pytest.approx(
            mode["prefill"]["us"] + 32 * mode["decode"]["us"]
        )
    assert found["modes"]["split"]["decode"]["splits"]
    check_schema(json.loads((tmp_path / "trace.json").read_text()))


def test_table_on_stdout(hetero):
    done = hetero("simulate", "--llm", "internlm2-1.8b", "--prompt", "300", "--no-fast-sync", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "GPU only",
        "NPU only",
        "layer level",
        "split",
        "token/s",
        "nothing was measured",
    ):
        assert words in done.stdout
    assert "by the drivers' own waits" in done.stdout


def test_every_length_at_once(hetero):
    words = ("simulate", "--llm", "internlm2-1.8b", "-t", "snapdragon", "--all-lengths", "-q")
    table = hetero(*words)
    assert table.returncode == 0, table.stderr
    assert [line.split()[0] for line in table.stdout.splitlines() if " tokens  " in line] == [
        str(length) for _ in ("prefill", "decode") for length in (32, 64, 128, 256, 512, 1024)
    ]
    found = hetero(*words, "--json").json
    assert [one["prompt"] for one in found["lengths"]] == [32, 64, 128, 256, 512, 1024]
    for one in found["lengths"]:
        assert list(one["modes"]) == MODES
        for phase in ("prefill_tokens_per_s", "decode_tokens_per_s"):
            rates = {mode: rate[phase] for mode, rate in one["modes"].items()}
            assert rates["split"] >= max(rates["gpu"], rates["npu"], rates["layer"])
    assert found["prompt"] == 1024  # what else is said is of the longest


def test_renderer_reports_frames(hetero):
    done = hetero(
        "simulate", "--llm", "internlm2-1.8b", "--renderer", "60", "--renderer-share", "30%",
        "--gpu-share", "0.6", "--json", "-q",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.json["renderer"] == {"frames_per_second": 60.0, "frame_us": pytest.approx(5_000)}
    frames = done.json["modes"]["gpu"]["decode"]["frames"]
    assert frames["count"] > 0
    assert frames["missed"] == 0


def test_architecture_of_ones_own(hetero, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nsource = "me"\nlayers = 2\nhidden = 256\nffn = 512\nheads = 4\n'
        'kv_heads = 2\nhead_dim = 64\nvocabulary = 1000\nweight_bits = 8\nactivation = "float16"\n'
    )
    done = hetero("simulate", "--llm", path, "--prompt", "64", "--json", "-q")
    assert done.returncode == 0, done.stderr
    assert done.json["llm"]["name"] == "mine"


def test_onnx_model(hetero, tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx", free_rows=True)
    trace = tmp_path / "trace.json"
    done = hetero(
        "simulate", path, "-t", "snapdragon-8-gen-3", "--input", "x=7x32", "--json", "-q",
        "--trace", trace,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(done.json["modes"]) == MODES
    us = [done.json["modes"][mode]["predicted_us"] for mode in MODES]
    assert us[2] <= min(us[:2]) and us[3] <= us[2]
    check_schema(json.loads(trace.read_text()))


def test_lists_architectures(hetero):
    done = hetero("simulate", "--llm", "help")
    assert done.stdout.split() == ["internlm2-1.8b", "llama-2-7b", "llama-3-8b", "llama-3.2-3b"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to simulate: give --llm NAME (--llm help lists them) or an ONNX file"),
        (["absent.onnx"], "absent.onnx"),
        (["absent.onnx", "--all-lengths"], "--all-lengths is for --llm"),
        (["--llm", "llama-3-8b", "-t", "host", "--estimate"], "--estimate: "),
        (["--llm", "llama-3-9b"], "unknown llm 'llama-3-9b'; did you mean llama-3-8b"),
        (["--llm", "absent.toml"], "absent.toml: cannot be read: No such file or directory"),
        (["--llm", "llama-3-8b", "-t", "snapdragno"], "unknown target 'snapdragno'; did you mean"),
        (["m.onnx", "--llm", "llama-3-8b"], "give --llm or an ONNX file, not both"),
        (["--llm", "llama-3-8b", "--input", "x=1"], "--input is for an ONNX file"),
        (["--llm", "llama-3-8b", "--prompt", "0"], "--prompt must be within 1 to 131072 tokens"),
        (["--llm", "llama-3-8b", "--decode", "-4"], "--decode must be within 1 to 131072 tokens"),
        (
            ["--llm", "llama-3-8b", "--npu-policy", "guess"],
            "--npu-policy must be one of plan, padding, online, pipe, got 'guess'",
        ),
        (["--llm", "llama-3-8b", "--renderer", "0"], "--renderer must be within 1 to 1000"),
        (["--llm", "llama-3-8b", "--gpu-share", "0.6"], "--gpu-share needs --renderer FPS"),
        (
            ["--llm", "llama-3-8b", "--renderer", "60", "--gpu-share", "1.5"],
            "--gpu-share 1.5: write a share above 0 and at most 1, as in 0.6 or 60%",
        ),
        (
            ["--llm", "llama-3-8b", "--renderer", "60", "--renderer-share", "1"],
            "--renderer-share must be below 1",
        ),
        (["--llm", "llama-3-8b", "--trace", "no/t.json"], "--trace no/t.json: the folder"),
        (["--llm", "llama-3-8b", "--trace", "."], "--trace .: a folder; give a file's name"),
    ],
)
def test_refuses_in_one_line(hetero, words, message):
    done = hetero("simulate", *words, "-q")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("hetero-tvm simulate: error: ")
    assert done.stderr.count("\n") == 1


def test_a_language_models_folder(hetero, tmp_path):
    folder = build(TinyLlm(layers=1), tmp_path / "model")
    done = hetero("simulate", folder, "--prompt", "40", "--decode", "8", "--json", "-q")
    assert done.returncode == 0, done.stderr
    found = done.json
    assert list(found["modes"]) == MODES
    chunks = {chunk["tokens"]: chunk["count"] for chunk in found["chunks"]}
    assert sum(tokens * count for tokens, count in chunks.items()) >= 40
    for mode in found["modes"].values():
        us = {step["tokens"]: step["us"] for step in mode["steps"]}
        prompt_us = sum(us[tokens] * count for tokens, count in chunks.items())
        assert mode["prefill_tokens_per_s"] == pytest.approx(40 / prompt_us * 1e6)
        assert mode["decode_tokens_per_s"] == pytest.approx(1e6 / us[1])
        assert mode["predicted_us"] == pytest.approx(prompt_us + 8 * us[1])
    assert found["modes"]["split"]["predicted_us"] <= found["modes"]["gpu"]["predicted_us"]
    for words, message in (
        (("--prompt", "90"), "--prompt 90 and --decode 32 are 122 tokens together; "),
        (("--npu-policy", "pipe"), "--npu-policy is for --llm"),
        (("--prompt", "0"), "--prompt must be within 1 to"),
    ):
        refused = hetero("simulate", folder, *words, "-q")
        assert refused.returncode == 2
        assert message in refused.stderr
