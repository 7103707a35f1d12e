"""A folder of this machine as a device."""

from pathlib import Path

from hetero_tvm.transports.local import Local


def test_its_root_is_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Local(Path("a 'b")) as device:
        assert device.check(f"echo {device.default_root()}") == f"{tmp_path}/a 'b"
        assert device.where == "local:a 'b"
        with device.forward(1234) as port:
            assert port == 1234
