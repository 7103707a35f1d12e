"""The verb `compare`: worse, no worse, not comparable."""

import copy
import json

import pytest

from hetero_tvm import cli
from hetero_tvm.compare import read_percentage
from hetero_tvm.errors import BadInput

STATE = {"hottest_c": None}
BENCH = {
    "schema_version": cli.SCHEMA_VERSION,
    "verb": "bench",
    "model_sha256": "0" * 64,
    "target": "host",
    "length": None,
    "llm": None,
    "simulated": False,
    "machine": {"cpu": "a", "opencl": "b"},
    "load_s": 1.0,
    "first_run_ms": 5.0,
    "times_ms": {"p50": 2.0, "mean": 2.1, "p90": 2.5, "sd": 0.01},
    "peak_memory_bytes": 1_000_000,
    "artefact_bytes": 5000,
    "thermal": {"loaded_s": 3.0, "start": STATE, "end": STATE},
}


@pytest.fixture
def files(tmp_path):
    """`files(**changes by dotted path)` -> flags: the measurement, and the same with changes."""

    def write(changes):
        after = copy.deepcopy(BENCH)
        for path, value in changes.items():
            *keys, last = path.split(".")
            place = after
            for key in keys:
                place = place[key]
            place[last] = value
        for name, data in (("a.json", BENCH), ("b.json", after)):
            (tmp_path / name).write_text(json.dumps(data))
        return [str(tmp_path / "a.json"), str(tmp_path / "b.json")]

    return write


def test_quiet_hides_talk_and_no_data(capsys, files):
    assert cli.main(["compare", *files({"times_ms.p50": 9.0}), "--threshold", "3%", "-q"]) == 1
    captured = capsys.readouterr()
    assert "p50 ms" in captured.out
    assert captured.err.count("\n") == 1 and "HT1000" in captured.err


@pytest.mark.parametrize(
    ("changes", "threshold", "code"),
    [
        ({}, "0%", 0),
        ({"times_ms.p50": 2.05}, "3%", 0),
        ({"times_ms.p50": 2.07}, "3%", 1),
        ({"times_ms.p50": 2.07}, "0.04", 0),
        ({"times_ms.p50": 1.0}, "3%", 0),
        ({"peak_memory_bytes": 1_050_000}, "3%", 1),
        ({"times_ms.p90": 9.0, "load_s": 9.0, "artefact_bytes": 9000}, "3%", 0),
    ],
)
def test_exit_code(capsys, files, changes, threshold, code):
    assert cli.main(["compare", *files(changes), "--threshold", threshold, "--json"]) == code
    data = json.loads(capsys.readouterr().out)
    assert data["held"] is (code == 0)
    assert bool(data["worse"]) is (code == 1)


LLM = {
    "prompt_tokens": 64,
    "generated_tokens": 32,
    "prefill_ms": {"p50": 9.0},
    "decode_ms": {"p50": 2.0},
}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"decode_ms": {"p50": 2.2}}, 1),
        ({"prefill_ms": {"p50": 9.9}}, 1),
        ({"prompt_tokens": 65}, 2),
    ],
)
def test_language_models(capsys, tmp_path, changes, code):
    for name, llm in (("a.json", LLM), ("b.json", {**LLM, **changes})):
        (tmp_path / name).write_text(json.dumps({**BENCH, "llm": llm}))
    assert cli.main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == code


def test_text(capsys, files):
    assert cli.main(["compare", *files({"times_ms.p50": 3.0, "times_ms.sd": 0.6})]) == 1
    said = capsys.readouterr().out
    assert "+50.0%  WORSE" in said and "worse by more than 3.0%: p50 ms" in said
    assert "scatter by 20%" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_sha256": "1" * 64}, "model_sha256 is"),
        ({"target": "snapdragon-8-gen-3"}, "target is host and snapdragon-8-gen-3"),
        ({"length": 64}, "length is None and 64"),
        ({"machine.cpu": "z"}, "another machine: cpu is a and z"),
        ({"schema_version": 99}, "schema version 99"),
        ({"verb": "run"}, "is not of `hetero-tvm bench ARTEFACT --json > FILE`"),
        ({"thermal.loaded_s": 600.0}, "after 3 s and after 600 s of load"),
        ({"times_ms": {}}, "damaged, or changed by hand"),
        ({"times_ms.p50": "fast"}, "damaged, or changed by hand"),
        ({"times_ms.p50": 10**400}, "damaged, or changed by hand"),
        ({"times_ms.p50": 0}, "damaged, or changed by hand"),
        ({"thermal": 3}, "damaged, or changed by hand"),
    ],
)
def test_what_is_not_comparable(capsys, files, changes, said):
    assert cli.main(["compare", *files(changes)]) == 2
    assert said in capsys.readouterr().err


def test_hot_and_cold(capsys, files, tmp_path):
    flags = files({"thermal.end": {"hottest_c": 70.0}, "thermal.loaded_s": 600.0})
    before = copy.deepcopy(BENCH)
    before["thermal"]["end"] = {"hottest_c": 45.0}
    (tmp_path / "a.json").write_text(json.dumps(before))
    assert cli.main(["compare", *flags]) == 2
    assert "measured at 45 °C and at 70 °C" in capsys.readouterr().err
    assert cli.main(["compare", *flags, "--any-warmth"]) == 0
    before["thermal"]["end"] = {"hottest_c": 68.0}  # as warm, however long it took
    (tmp_path / "a.json").write_text(json.dumps(before))
    assert cli.main(["compare", *flags]) == 0


@pytest.mark.parametrize("text", ["x", "-1%", "nan", "inf", ""])
def test_thresholds_that_are_none(text):
    with pytest.raises(BadInput, match="--threshold"):
        read_percentage(text)


def test_files_that_are_none(capsys, tmp_path, files):
    (a, _) = files({})
    (tmp_path / "bad.json").write_text("{")
    assert cli.main(["compare", a, str(tmp_path / "bad.json")]) == 2
    assert cli.main(["compare", a, str(tmp_path / "none.json")]) == 2
    (tmp_path / "deep.json").write_text("[" * 200_000)
    assert cli.main(["compare", a, str(tmp_path / "deep.json")]) == 2
    said = capsys.readouterr().err
    assert "bad.json: is not JSON; make it with" in said
    assert "none.json: No such file or directory; make it with" in said
