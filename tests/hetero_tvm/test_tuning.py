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
from attention_cases import TOLERANCE, attention, expected, inputs

from hetero_tvm import first_load, tuning
from hetero_tvm.errors import BadInput, DeviceFailure
from relay_passes import attention as operators
from schedules.attention import decode_kernel
from schedules.attention_space import PAST, Written
from schedules.measure import Pool
from schedules.search_space import space_of
from schedules.trials import plain, scheduled_hash
from schedules.tuning_db import TuningDb
from schedules.tuning_records import Choice, Where, describe, kernel_record, record
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


def _attention_program(case):
    """A state as a build has it before kernels are made."""
    shapes = (case.query_shape, case.key_shape, case.value_shape)

    def build(q, k, v, past):
        return operators.attention(q, k, v, past, operators.AttentionAttrs(scale=case.scale))

    types = [*((shape, "float32") for shape in shapes), ((1,), "int32")]
    mod = on_gpu.module(build, *types)
    return SimpleNamespace(spec=load_spec("host"), mod=mod, four_bit=None)


def _here():
    device, driver = tuning._here(load_spec("host"))
    return Where(device=device, driver=driver, limits=cases.LIMIT.text)


def _remember(folder, kernel, func, **changed):
    """Records of a tile with these sizes that is twice as fast as the default's; its choice."""
    space = space_of(plain(func), cases.LIMIT)
    tile = {**space.points[0], **changed}
    assert tile in space.points[1:]
    choice = Choice.of("attention", {name: [size] for name, size in tile.items()})
    scheduled = scheduled_hash(space.draw("attention", choice.as_dict))
    key, where, right = kernel.key, _here(), {"good": True, "reason": ""}
    TuningDb(folder).append(
        [
            kernel_record(kernel),
            record("default", key, where, seconds=2e-3, **right),
            record("trial", key, where, choice, seconds=1e-3),
            record("verdict", key, where, choice, **right, scheduled=scheduled),
        ]
    )
    return choice


@pytest.mark.parametrize(
    ("case", "changed"),
    [
        pytest.param(attention(rows=9), {"vectors": 1}, id="prefill"),
        pytest.param(attention(), {"pieces": 1}, id="a_step_in_another_number_of_pieces"),
    ],
)
def test_a_record_of_a_kernel_that_is_written_by_hand_is_used(case, changed, tmp_path):
    """Attention with another tile, in a program as it is built; the manifest can name it."""
    cases.needs_opencl()
    state = _attention_program(case)
    (job,) = tuning.jobs_of(state)
    choice = _remember(tmp_path, job.kernel, job.func, **changed)
    tile = {name: size for name, (size,) in choice.as_dict.items()}
    tuned = tuning.schedule_with(state, tmp_path, print)
    mod, (use,) = tuned.mod, tuned.uses
    assert use.tuned and use.pick.choice == choice
    arrays = inputs(case, 40)
    (got,) = on_gpu.run_lowered(mod, arrays)
    on_gpu.assert_close(got, expected(case, arrays), TOLERANCE[case.dtype])
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


def test_a_step_without_a_record_is_two_functions(tmp_path):
    cases.needs_opencl()
    state = _attention_program(attention())
    (job,) = tuning.jobs_of(state)
    assert job.kernel.name == "attention_step"
    right = {"good": True, "reason": ""}
    db = TuningDb(tmp_path)
    db.append(
        [
            kernel_record(job.kernel),
            record("default", job.kernel.key, _here(), seconds=1e-3, **right),
        ]
    )
    tuned = tuning.schedule_with(state, tmp_path, print)
    mod, (use,) = tuned.mod, tuned.uses
    assert not use.tuned and use.why == "the default is the best that was verified"
    assert list(on_gpu.kernels(mod)) == ["attention_decode", "attention_combine"]
    db.append([record("default", job.kernel.key, _here(), seconds=1e-3, good=False, reason="odd")])
    with pytest.raises(DeviceFailure, match=r"is wrong on .* \(odd\), and no other schedule"):
        tuning.schedule_with(state, tmp_path, print)


def test_a_record_of_the_pieces_alone_is_still_used(tmp_path):
    """As earlier versions tuned them: their number is the default's."""
    cases.needs_opencl()
    case = attention()
    func = decode_kernel(case, GPU)
    choice = _remember(tmp_path, describe("attention_decode", func), func, lanes=4)
    tuned = tuning.schedule_with(_attention_program(case), tmp_path, print)
    mod, (use,) = tuned.mod, tuned.uses
    assert use.tuned and use.pick.choice == choice
    assert list(on_gpu.kernels(mod)) == ["attention_decode", "attention_combine"]
    assert dict(Written.of(mod["attention_decode"]).tile) == {"lanes": 4}


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
