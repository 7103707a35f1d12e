"""A model in another process, called from here; and that process going away."""

import dataclasses
import os
import signal
import subprocess
import threading

import numpy as np
import pytest

from hetero_tvm import bundle, reference
from hetero_tvm.errors import BadInput, DeviceFailure
from hetero_tvm.open_model import opened
from hetero_tvm.remote import Session
from hetero_tvm.transports.local import Local


@pytest.fixture
def session(deployed_here):
    script = f"{deployed_here.root}/bundles/mlp/run"
    with Session.of_bundle(Local(deployed_here.root), script) as session:
        yield session


@pytest.fixture
def model(session, deployed_here):
    manifest = bundle.read_manifest(deployed_here.artefact)
    return session.load(str(stored(deployed_here)), manifest)


def stored(deployed_here):
    (path,) = deployed_here.root.glob("store/*/mlp.so")
    return path


def inputs(model, seed):
    return {"x": np.random.default_rng(seed).standard_normal((4, 32), np.float32)}


def test_gives_what_the_model_gives(model, deployed_here):
    for seed in (1, 2):
        given = inputs(model, seed)
        wanted = reference.compute(deployed_here.model, given)["y"]
        np.testing.assert_allclose(model.run(given)["y"], wanted, rtol=1e-4, atol=1e-5)


def test_is_timed_there(model):
    model.reset_counters()
    results, times = model.measure(model.feed(inputs(model, 3)), 5)
    assert len(times) == 5 and all(time > 0 for time in times)
    np.testing.assert_array_equal(model.fetch(results)["y"], model.run(inputs(model, 3))["y"])
    assert sum(model.counters().values()) > 0
    assert [gpu["selected"] for gpu in model.gpus()].count(True) == 1
    assert not model.simulated


def test_checks_inputs_as_here(model):
    with pytest.raises(BadInput, match="missing x=4x32:float32"):
        model.run({})


def test_a_killed_program_is_said_and_kills_nothing_here(model, deployed_here):
    program = next(deployed_here.root.glob("store/*/hetero_device"))
    found = subprocess.run(["pgrep", "-f", str(program)], capture_output=True, text=True)
    for process in map(int, found.stdout.split()):
        os.kill(process, signal.SIGKILL)
    with pytest.raises(DeviceFailure, match=r"local:.*: its program ended or the line broke"):
        model.run(inputs(model, 1))


def test_a_program_killed_in_mid_run_is_said_and_the_next_session_runs(model, deployed_here):
    program = next(deployed_here.root.glob("store/*/hetero_device"))

    def kill():
        found = subprocess.run(["pgrep", "-f", str(program)], capture_output=True, text=True)
        for process in map(int, found.stdout.split()):
            os.kill(process, signal.SIGKILL)

    fed = model.feed(inputs(model, 1))
    model.measure(fed, 1)
    timer = threading.Timer(0.5, kill)
    timer.start()
    with pytest.raises(DeviceFailure, match=r"local:.*: its program ended or the line broke"):
        model.measure(fed, 10_000_000)  # minutes of runs
    timer.join()
    with opened(deployed_here.artefact, deployed_here.address) as again:
        assert np.isfinite(again.run(inputs(model, 1))["y"]).all()


def test_a_changed_byte_is_refused_before_anything_is_loaded(session, deployed_here, tmp_path):
    path = stored(deployed_here)
    manifest = bundle.read_manifest(path)
    data = bytearray(path.read_bytes())
    for at, words in ((1000, "code does not match"), (manifest.library_bytes + 5, "description")):
        damaged = bytearray(data)
        damaged[at] ^= 1
        (tmp_path / "damaged.so").write_bytes(damaged)
        with pytest.raises(DeviceFailure, match=f"damaged .*{words}.*copy it again"):
            session.load(str(tmp_path / "damaged.so"), manifest)
    (tmp_path / "short.so").write_bytes(data[:-100])
    with pytest.raises(DeviceFailure, match="not an artefact of hetero_tvm, or cut short"):
        session.load(str(tmp_path / "short.so"), manifest)


def test_a_program_of_another_version(session):
    with pytest.raises(
        DeviceFailure, match=r"another version, without hetero_tvm.newer; deploy ag"
    ):
        session.call("hetero_tvm.newer")


def test_a_script_that_is_not_there(deployed_here):
    with pytest.raises(DeviceFailure, match=r"none/run.*[Nn]o such file|open .*none/run"):
        Session.of_bundle(Local(deployed_here.root), f"{deployed_here.root}/none/run")


def test_simulated_where_the_chip_is_not(model):
    model.manifest = dataclasses.replace(model.manifest, npu_provider="qnn")
    assert model.simulated == (model.manifest.host == "x86_64")
