"""The verb: devices that answer, that do not, and where they are named."""

import json

import pytest
from adb_server import SERIAL, adb_server

from hetero_tvm import cli, devices, runtime
from hetero_tvm.errors import BadInput


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """Write the user's file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")

    def write(text):
        path = tmp_path / "config" / "hetero_tvm" / "devices.toml"
        path.parent.mkdir(parents=True)
        path.write_text(text)

    return write


def test_one_that_answers_and_one_that_does_not(configured, tmp_path, capsys):
    configured(f'devices = ["local:{tmp_path}", "adb:gone"]')
    assert cli.main(["devices", "--json"]) == 4
    here, gone = json.loads(capsys.readouterr().out)["devices"]
    assert here["facts"]["system"] == "linux" and here["error"] == ""
    assert gone["facts"] is None and "start the adb server" in gone["error"]
    assert cli.main(["devices", "--to", f"local:{tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "memory" in said and "storage      free" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config"]  # looking leaves nothing


def test_what_is_deployed_is_named(deployed_here, capsys):
    assert cli.main(["devices", "--to", deployed_here.address]) == 0
    said = capsys.readouterr().out
    assert "deployed     mlp" in said
    # By the word of the program that is there.
    gpus = sorted(runtime.opencl_devices(), key=lambda gpu: gpu["type"] != "gpu")
    assert f"GPU driver   {gpus[0]['driver_version']} ({gpus[0]['platform']})" in said


def test_those_of_adb_come_first(configured, tmp_path, monkeypatch):
    configured('devices = ["ssh://board"]')
    with adb_server(tmp_path, monkeypatch):
        assert devices.known_addresses() == [f"adb:{SERIAL}", "ssh://board"]


def test_none(configured, capsys):
    assert cli.main(["devices"]) == 0
    assert "no devices: none on adb" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["devices = 3", "devices = [3]", "devices = ["])
def test_a_bad_file(configured, text):
    configured(text)
    with pytest.raises(BadInput, match=r"devices\.toml"):
        devices.known_addresses()
