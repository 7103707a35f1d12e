"""The verb `bench`: statistics, formats, sustained runs, refusals."""

import json

import numpy as np
import pytest
from recorded_model import artefact

from hetero_tvm import bench, cli
from hetero_tvm.errors import BadInput
from hetero_tvm.system_state import read_state


def test_statistics_are_numpys():
    ms = np.random.default_rng(0).gamma(2, 3, 501)
    times = bench.times_of(list(ms))
    assert (times.runs, times.mean, times.sd) == (501, pytest.approx(ms.mean()), ms.std(ddof=1))
    assert (times.p50, times.p90) == (pytest.approx(np.median(ms)), np.percentile(ms, 90))
    assert (times.min, times.max) == (ms.min(), ms.max())
    assert bench.times_of([5.0]).sd == 0


def test_json_of_a_run(capsys):
    assert cli.main(["bench", str(artefact()), "--repeat", "7", "--warm-up", "2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["verb"], data["schema_version"]) == ("bench", cli.SCHEMA_VERSION)
    assert data["times_ms"]["runs"] == len(data["samples_ms"]) == 7
    assert data["times_ms"] == {
        **data["times_ms"],
        "p50": pytest.approx(np.median(data["samples_ms"])),
    }
    assert data["times_ms"]["p50"] < data["first_run_ms"] * 100
    assert data["peak_memory_bytes"] > 50e6
    assert data["minutes"] == [] and data["simulated"] is False
    assert len(data["model_sha256"]) == 64


def test_sustained_shows_every_stretch(hetero):
    done = hetero("bench", artefact(), "--sustained", "0.9s", "--every", "0.3s", "--json")
    assert done.returncode == 0, done.stderr
    rows = done.json["minutes"]
    assert rows and rows == sorted(rows, key=lambda row: row["at_s"])
    assert done.json["times_ms"] in [row["times_ms"] for row in rows[-2:]]
    assert len(done.stderr.splitlines()) >= len(rows)


def test_an_interrupted_sustained_run_shows_what_it_has(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(bench.time, "monotonic", lambda: next(clock))
    left = iter([1.0] * 12)

    def timed():
        try:
            return next(left)
        except StopIteration:
            raise KeyboardInterrupt from None

    rows, last = bench._sustain(timed, read_state, 600, 5, quiet=True)
    assert sum(row["times_ms"]["runs"] for row in rows) == 12
    assert set(last) == {1.0}


def test_one_that_is_interrupted_at_once_has_nothing_to_show():
    def timed():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench._sustain(timed, read_state, 600, 5, quiet=True)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_times(text, seconds):
    assert bench.read_time(text, "--sustained") == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-3s", "0s", "nans", "infs", "1d"])
def test_times_that_are_none(text):
    with pytest.raises(BadInput, match="write a number and s, m or h, as in 90s or 10m"):
        bench.read_time(text, "--sustained")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--repeat", "0"], "--repeat 0: at least 1"),
        (["--warm-up", "-1"], "--warm-up -1: at least 0"),
        (["--seed", "-1"], "--seed -1: at least 0"),
        (["--sustained", "10"], "--sustained 10: write a number"),
        (["--sustained", "1m", "--repeat", "3"], "exclude each other"),
    ],
)
def test_bad_input(capsys, flags, said):
    assert cli.main(["bench", str(artefact()), *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["text", "markdown", "csv", "json"])
def test_formats(capsys, kind):
    assert cli.main(["bench", str(artefact()), "--repeat", "3", "--format", kind]) == 0
    said = capsys.readouterr().out
    assert "p50" in said
    if kind == "json":
        assert json.loads(said)["verb"] == "bench"
