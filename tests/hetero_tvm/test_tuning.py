import socket

import pytest

from hetero_tvm import tuning
from hetero_tvm.errors import BadInput, DeviceFailure
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
