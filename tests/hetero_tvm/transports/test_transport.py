"""What every way to a device shares, through the one that needs no device."""

import re

import numpy as np
import pytest

from hetero_tvm.errors import DeviceFailure, EnvironmentProblem
from hetero_tvm.transports.local import Local

DATA = np.random.default_rng(1).bytes(700_000)


@pytest.fixture
def device(tmp_path):
    return Local(tmp_path / "device")


def test_a_push_is_whole_or_not_there(device, tmp_path):
    seen = []
    assert device.push(DATA, f"{tmp_path}/file", meter=seen.append) == len(DATA) == sum(seen)
    assert (tmp_path / "file").read_bytes() == DATA
    assert not (tmp_path / "file.part").exists()


@pytest.mark.parametrize(
    ("there", "travels"),
    [
        pytest.param(DATA[:300_000], len(DATA) - 300_000, id="goes_on_where_it_stopped"),
        pytest.param(DATA, 0, id="all_had_arrived"),
        pytest.param(b"x" * 300_000, 2 * len(DATA) - 300_000, id="damaged_start_over"),
        pytest.param(DATA + b"more", len(DATA), id="longer_than_it_should_be"),
    ],
)
def test_what_an_earlier_try_left(device, tmp_path, there, travels):
    (tmp_path / "file.part").write_bytes(there)
    assert device.push(DATA, f"{tmp_path}/file") == travels
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_full_disk_says_so(device, tmp_path, monkeypatch):
    real = device.argv
    monkeypatch.setattr(device, "argv", lambda c: real(re.sub(r"cat >\S+", "cat >/dev/full", c)))
    with pytest.raises(DeviceFailure, match=r"storage is full.*goes on where this one stopped"):
        device.push(DATA, f"{tmp_path}/never/written")


def test_a_pull_that_fails_leaves_nothing(device, tmp_path):
    with pytest.raises(DeviceFailure, match=r"No such file"):
        device.pull(f"{tmp_path}/none", tmp_path / "here")
    assert list(tmp_path.iterdir()) == []


def test_failures_name_the_device_and_the_command(device, tmp_path):
    with pytest.raises(DeviceFailure, match=rf"local:{tmp_path}/device: `exit 3` failed: exit co"):
        device.check("exit 3")
    with pytest.raises(DeviceFailure, match=r"no answer in 0 s"):
        device.run("exec sleep 5", timeout_s=0.2)


def test_a_missing_tool_is_no_device_failure(device, monkeypatch):
    monkeypatch.setattr(device, "argv", lambda command: ["no-such-client", command])
    for action in (lambda: device.run("true"), lambda: device.push(DATA, "/tmp/x/y")):
        with pytest.raises(EnvironmentProblem, match=r"cannot start no-such-client"):
            action()
