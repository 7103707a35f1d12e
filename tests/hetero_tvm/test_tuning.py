import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import on_gpu
import psutil
import pytest
import tuning_cases as cases
from attention_cases import attention

from hetero_tvm import first_load, tuning
from hetero_tvm.errors import BadInput, DeviceFailure
from relay_passes import attention as operators
from schedules.attention_space import PAST, Written
from schedules.measure import Pool
from schedules.search_space import space_of
from schedules.trials import plain, scheduled_hash
from schedules.tuning_db import TuningDb
from schedules.tuning_records import Choice, Where, kernel_record, record
from target_specs.loader import load_spec

GPU = load_spec("host").gpu


def test_places():
    (local,) = tuning.places("local", GPU)
    assert not local.far and "local" in local.command
    with socket.create_server(("127.0.0.1", 0)) as server:
        device = f"rpc://127.0.0.1:{server.getsockname()[1]}"
        (far,) = tuning.places(device, GPU)
    assert far.far and device in far.command


@pytest.mark.parametrize("device", ["phone", "rpc://phone", "tracker://host:9190", "usb://a:1"])
def test_places_that_cannot_be_read(device):
    with pytest.raises(BadInput, match="write local, rpc://HOST:PORT or tracker://HOST:PORT/KEY"):
        tuning.places(device, GPU)


def test_a_tracker_that_is_gone():
    with pytest.raises(
        DeviceFailure, match=r"the tracker at 127.0.0.1:1 does not answer: Connection refused"
    ):
        tuning.places("tracker://127.0.0.1:1/phone", GPU)


def test_a_file_is_no_database(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(BadInput, match="is a file; a database is a folder"):
        tuning.open_db(tmp_path / "f", tell=print)


def test_a_record_of_a_kernel_that_is_written_by_hand_is_used(tmp_path):
    """Attention with another tile, in a program as it is built; the manifest can name it."""
    cases.needs_opencl()
    case = attention(rows=9)
    shapes = (case.query_shape, case.key_shape, case.value_shape)

    def build(q, k, v, past):
        return operators.attention(q, k, v, past, operators.AttentionAttrs(scale=case.scale))

    types = [*((shape, "float32") for shape in shapes), ((1,), "int32")]
    state = SimpleNamespace(spec=load_spec("host"), mod=on_gpu.module(build, *types), four_bit=None)
    (job,) = tuning.jobs_of(state)
    space = space_of(plain(job.func), cases.LIMIT)
    tile = next(point for point in space.points if point != space.points[0])
    choice = Choice.of("attention", {name: [size] for name, size in tile.items()})
    scheduled = scheduled_hash(space.draw("attention", choice.as_dict))
    device, driver = tuning._here(state.spec)
    where = Where(device=device, driver=driver, limits=cases.LIMIT.text)
    key, right = job.kernel.key, {"good": True, "reason": ""}
    TuningDb(tmp_path).append(
        [
            kernel_record(job.kernel),
            record("default", key, where, seconds=2e-3, **right),
            record("trial", key, where, choice, seconds=1e-3),
            record("verdict", key, where, choice, **right, scheduled=scheduled),
        ]
    )
    tuned = tuning.schedule_with(state, tmp_path, print)
    mod, (use,) = tuned.mod, tuned.uses
    assert use.tuned and use.pick.choice == choice
    (described,) = first_load.described([use], mod)
    func = mod[described["function"]]
    assert tuned.names == {described["function"]}
    assert dict(Written.of(func).tile) == tile
    assert func.attrs["tirx.is_scheduled"] and list(func.attrs["hetero.ops"]) == list(use.ops)
    most = Written.of(job.func).most_past
    runs = described["proof"]["runs"]  # half of the cache is filled, then all of it
    assert [run["given"] for run in runs] == [
        [{"parameter": PAST, "value": past}] for past in (most // 2, most)
    ]


@contextlib.contextmanager
def _farm(servers):
    """A tracker with that many servers of this machine's device; its address, the processes."""
    pytest.importorskip("tornado")
    from tvm.rpc.tracker import Tracker

    cases.needs_opencl()
    tracker = Tracker("127.0.0.1", 9200, 9290, silent=True)
    here = Path(__file__).parent
    paths = os.pathsep.join(filter(None, [str(here), *sys.path]))
    command = [sys.executable, str(here / "loopback_server.py"), str(tracker.port), "phone"]
    running = []
    try:
        for _ in range(servers):
            running.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,
                    env={**os.environ, "PYTHONPATH": paths},
                )
            )
        for process in running:
            assert int(process.stdout.readline())
        device = f"tracker://127.0.0.1:{tracker.port}/phone"
        end = time.monotonic() + 60
        while _free(device) < servers:
            assert time.monotonic() < end
            time.sleep(0.2)
        yield device, running
    finally:
        for process in running:
            _kill(process.pid)
            process.wait()
        tracker.terminate()


def _kill(pid):
    """A process and all that it started: TVM's servers are processes of processes."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def _free(device):
    try:
        return tuning.free_devices(device)
    except BadInput:
        return 0


def _slow(places):
    """The same places, each trial taking longer."""
    here = str(Path(__file__).parent)
    return [
        dataclasses.replace(
            place,
            command=tuple(
                "slow_worker" if word == "hetero_tvm.trial_worker" else word
                for word in place.command
            ),
            environment=(("PYTHONPATH", f"{here}:{dict(place.environment)['PYTHONPATH']}"),),
        )
        for place in places
    ]


@pytest.mark.nightly
def test_a_farm_measures_side_by_side_and_survives_a_loss():
    """Three servers with an artificial delay have at least 2.5 times the trials of one."""
    default = cases.job(cases.addition()).default
    with _farm(3) as (device, processes):
        places = _slow(tuning.places(device, GPU))
        assert len(places) == 3
        took = {}
        for count in (1, 3):
            with Pool(places[:count]) as pool:
                pool.time([default] * count)  # everything is loaded once
                start = time.monotonic()
                outcomes = pool.time([default] * 12)
                took[count] = time.monotonic() - start
                assert [outcome.kind for outcome in outcomes] == ["ok"] * 12
            time.sleep(1)  # until the tracker has them back
        assert took[1] / took[3] >= 2.5, took
        notes = []
        with Pool(places, note=notes.append) as pool:
            loss = threading.Timer(2.0, _kill, (processes[0].pid,))
            loss.start()
            outcomes = pool.time([default] * 9)
            loss.join()
            assert [outcome.kind for outcome in outcomes] == ["ok"] * 9


def test_a_tracker_without_such_a_device():
    pytest.importorskip("tornado")
    from tvm.rpc.tracker import Tracker

    tracker = Tracker("127.0.0.1", 9200, 9290, silent=True)
    try:
        with pytest.raises(BadInput, match="no free device is called phone at that tracker"):
            tuning.places(f"tracker://127.0.0.1:{tracker.port}/phone", GPU)
    finally:
        tracker.terminate()
