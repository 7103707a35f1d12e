"""Loads and threads, a little now and for an hour at night; see `load_runs.py`."""

from __future__ import annotations

import gc
import subprocess
import sys

import load_runs
import numpy as np
import pytest
from runtime_harness import HERE, environment

import hetero_tvm


def _run(*words):
    done = subprocess.run(
        [sys.executable, str(HERE / "load_runs.py"), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(PYTHONPATH=":".join(path for path in sys.path if path)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_was_loaded_is_given_back(artefact):
    found = load_runs.load_often(artefact, 20)
    assert found["wrong"] == []
    assert found["runs"] == 20


def test_models_of_one_artefact_outlive_each_other(artefact):
    stored = np.load(artefact.with_suffix(".npz"))
    first, second = hetero_tvm.load(artefact), hetero_tvm.load(artefact)
    del second
    gc.collect()
    np.testing.assert_allclose(first.run({"x": stored["in x"]})["y"], stored["out y"], 1e-4, 1e-4)
    third = hetero_tvm.load(artefact)
    del first
    gc.collect()
    np.testing.assert_allclose(third.run({"x": stored["in x"]})["y"], stored["out y"], 1e-4, 1e-4)


@pytest.mark.parametrize("what", ["resident_kib", "threads", "files", "device_bytes"])
def test_growth_is_told(what):
    early = {"resident_kib": 500_000, "threads": 7, "files": 11, "device_bytes": 36_864}
    assert load_runs.growth(early, early) == []
    assert what in load_runs.growth(early, {**early, what: 10 * early[what] + (1 << 21)})[0]


@pytest.mark.nightly
def test_a_thousand_loads():
    assert "1000 runs" in _run("--loads", 1000)


@pytest.mark.nightly
def test_an_hour_of_threads_and_processes():
    assert _run("--minutes", 60).count(" runs, ") == 4
