"""`--to`, taken apart."""

import pytest

from hetero_tvm.errors import BadInput
from hetero_tvm.transports.address import open_transport
from hetero_tvm.transports.local import Local
from hetero_tvm.transports.ssh import Ssh


@pytest.mark.parametrize(
    ("address", "kind", "target", "port"),
    [
        ("ssh://me@Board", Ssh, "me@Board", None),
        ("ssh://board:2222", Ssh, "board", "2222"),
        ("ssh://me@[fe80::1]:22", Ssh, "me@fe80::1", "22"),
        ("local:/data/x", Local, None, None),
    ],
)
def test_addresses(address, kind, target, port):
    with open_transport(address) as device:
        assert isinstance(device, kind)
        if target:
            words = device.argv("true")
            assert words[-2] == target
            assert (words[words.index("-p") + 1] if "-p" in words else None) == port


@pytest.mark.parametrize(
    "address",
    [
        "board",
        "ssh://",
        "ssh://a:b@host",
        "ssh://host/folder",
        "ssh://h:99999",
        "local:",
        "ftp://x",
    ],
)
def test_what_is_no_address(address):
    with pytest.raises(BadInput, match="--to"):
        open_transport(address)
