"""`doctor --to`: a device that is this machine, by shell and by its server; and what goes wrong."""

import json

import pytest

from hetero_tvm import cli, device_doctor
from hetero_tvm.errors import BadInput


def doctor(capsys, *words):
    code = cli.main(["doctor", *map(str, words), "--json"])
    data = json.loads(capsys.readouterr().out)
    return code, data, {result["name"]: result for result in data["results"]}


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_every_part_is_tried_and_nothing_stays(opencl, tmp_path, capsys):
    device = tmp_path / "device"
    code, data, by_name = doctor(capsys, "--to", f"local:{device}")
    assert code == data["exit_code"] == 0, data
    assert data["device"] == f"local:{device}"
    order = ["device", "shell", "memory", "storage", "OpenCL library", "NPU driver"]
    order += ["libraries", "skel files", "library paths", "program"]
    names = [result["name"] for result in data["results"]]
    assert [name for name in names if name in order] == order
    assert names[-2:] == ["NPU", "split product"]
    tried = [r["words"] for r in data["results"] if r["name"].startswith("OpenCL ")]
    assert any("float32 product right, off by " in words for words in tried)
    assert "product right" in by_name["split product"]["words"]
    assert not device.exists()


def test_what_is_deployed_stays_as_it_is(opencl, deployed_here, capsys):
    before = files(deployed_here.root)
    code, _, by_name = doctor(capsys, "--to", deployed_here.address)
    assert code == 0 and "1 MB travel" in by_name["libraries"]["words"]
    assert files(deployed_here.root) == before


def test_quick_only_looks(tmp_path, capsys):
    code, _, by_name = doctor(capsys, "--quick", "--to", f"local:{tmp_path / 'device'}")
    assert code == 0 and "storage" in by_name and "program" not in by_name
    assert not (tmp_path / "device").exists()


def test_one_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")
    code, data, _ = doctor(capsys, "--to", "adb:gone")
    (line,) = data["results"]
    assert code == 4 and "start the adb server" in line["words"]
    assert line["fix"].endswith("hetero-tvm doctor --to adb:gone")


@pytest.mark.parametrize("address", ["telnet://x", "rpc://", "ssh://"])
def test_a_wrong_address_is_bad_input(tmp_path, address):
    with pytest.raises(BadInput):
        list(device_doctor.device_checks(address, None, tmp_path))
    assert cli.main(["doctor", "--to", address]) == 2


def test_a_driver_that_fails_is_a_line(opencl, tmp_path, capsys, monkeypatch):
    def broken(*_):
        raise device_doctor.HeteroError("clBuildProgram returned -11")

    monkeypatch.setattr("hetero_tvm.remote.RemoteModel.run", broken)
    code, _, by_name = doctor(capsys, "--to", f"local:{tmp_path / 'device'}")
    assert code == 4 and by_name["NPU"]["status"] == "FAIL"
    assert "clBuildProgram returned -11" in by_name["split product"]["words"]
    assert not (tmp_path / "device").exists()


def test_wrong_numbers_are_seen(opencl, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hetero_tvm.placed_product.Product.error", lambda *_: float("nan"))
    code, _, by_name = doctor(capsys, "--to", f"local:{tmp_path / 'device'}")
    assert code == 4 and "product WRONG" in by_name["split product"]["words"]


def test_libraries_that_are_not_found_there_are_named(tmp_path, capsys, monkeypatch):
    said = "\tlibz.so.1 => /lib/libz.so.1\n\tlibcurious.so.2 => not found\n"
    seen = device_doctor.Seen(loader="true")
    transport = device_doctor.open_transport(f"local:{tmp_path}")
    done = type("Done", (), {"text": said})
    monkeypatch.setattr(transport, "run", lambda *_, **__: done)
    found = device_doctor._library_paths(transport, ["/a/one.so"], seen)
    assert found.status == "FAIL" and found.words == "not found there: libcurious.so.2"
