"""What stands behind `--to`: one address, one way to a device."""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from hetero_tvm.errors import BadAddress
from hetero_tvm.transports.adb import Adb
from hetero_tvm.transports.local import Local
from hetero_tvm.transports.ssh import Ssh
from hetero_tvm.transports.transport import Transport

FORMS = "ssh://[user@]host[:port], adb[:serial], local:/folder"


def open_transport(address: str) -> Transport:
    """The device at `address`; nothing is connected yet.

    Raises:
        BadInput: not one of `FORMS`.
    """
    kind, _, rest = address.partition(":")
    if kind in ("rpc", "rpcs"):
        raise BadAddress(
            f"--to {address}: a device server has its own program and libraries, and takes a model "
            "when it is run: hetero-tvm run MODEL.so --to " + address
        )
    if kind == "local" and rest:
        return Local(Path(rest))
    if kind == "adb":
        return Adb(rest or None)
    if kind == "ssh":
        return _ssh(address)
    raise BadAddress(f"--to {address}: one of {FORMS}")


def _ssh(address: str) -> Ssh:
    try:
        url = urllib.parse.urlsplit(address)
        port = url.port
    except ValueError as error:
        raise BadAddress(f"--to {address}: {error}") from None
    if not url.hostname or url.path not in ("", "/") or url.query or url.password is not None:
        raise BadAddress(f"--to {address}: write ssh://[user@]host[:port], no folder, no password")
    # Not `url.hostname`, which is in small letters: an alias of OpenSSH's configuration may not be.
    host = url.netloc.rpartition("@")[2]
    if port is not None:
        host = host.rpartition(":")[0]
    return Ssh(host.strip("[]"), url.username, port)
