"""A device over ssh, through the OpenSSH client: the user's own configuration, keys and jump hosts.

One connection serves all commands (OpenSSH's ControlMaster); it ends with the transport. Nothing
is ever asked: no password, no new host key (`BatchMode`). `HETERO_SSH` holds another client, or
options for it, as in `HETERO_SSH="ssh -F my_config"`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hetero_tvm.errors import BadAddress, NotReached
from hetero_tvm.transports.transport import Transport

_SAFE = re.compile(r"[A-Za-z0-9_.:%\[\]][A-Za-z0-9_.:%\[\]-]*")  # and no leading dash: no option
_LOST = 255  # ssh's own exit code
_ALIVE_S, _ALIVE_COUNT = 5, 3  # a dead network is found after 15 s
_FORWARD_TRIES = 50
_HINTS = {
    "Host key verification failed": "connect once by hand to accept its host key",
    "Permission denied": "no password is asked here: install your key there with ssh-copy-id",
    "Could not resolve": "check the name",
    "Connection refused": "is an ssh server running there, on that port?",
}


class Ssh(Transport):
    """`host`, as in OpenSSH's configuration, by `user` and `port` where they are given."""

    def __init__(self, host: str, user: str | None = None, port: int | None = None) -> None:
        for name, value in (("host", host), ("user", user)):
            if value is not None and not _SAFE.fullmatch(value):
                raise BadAddress(f"--to ssh://…: {value!r} is no {name}")
        shown = f"{user}@{host}" if user else host
        super().__init__(f"ssh://{shown}" + (f":{port}" if port else ""))
        # A short path: OpenSSH puts a socket there, whose name may have about 100 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="hetero-ssh-"))
        self._alone = [
            *shlex.split(os.environ.get("HETERO_SSH") or "ssh"),
            *("-oBatchMode=yes", "-oConnectTimeout=10", "-oLogLevel=ERROR"),
            *(f"-oServerAliveInterval={_ALIVE_S}", f"-oServerAliveCountMax={_ALIVE_COUNT}"),
            *(["-p", str(port)] if port else []),
        ]
        self._client = [
            *self._alone,
            *(f"-oControlPath={self._folder}/c", "-oControlMaster=auto", "-oControlPersist=60"),
        ]
        self._target = shown

    def argv(self, command: str) -> list[str]:
        """See `Transport.argv`. The login shell over there may be any; `sh` reads the command."""
        return [*self._client, self._target, f"exec sh -c {shlex.quote(command)}"]

    def default_root(self) -> str:
        """See `Transport.default_root`."""
        return '"$HOME"/.hetero_tvm'

    def is_lost(self, code: int) -> bool:
        """See `Transport.is_lost`."""
        return code == _LOST

    def never_began(self, said: bytes) -> bool:
        """See `Transport.never_began`: the shared connection ended just as it was asked for."""
        return b"mux_client_request_alive" in said

    def why_lost(self, said: str) -> str:
        """See `Transport.why_lost`."""
        return next((hint for words, hint in _HINTS.items() if words in said), "")

    @contextlib.contextmanager
    def forward(self, port: int) -> Iterator[int]:
        """See `Transport.forward`: `ssh -L`, on a loopback port that is free."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            mine = int(probe.getsockname()[1])
        command = [
            *(*self._alone, "-oControlPath=none", "-oExitOnForwardFailure=yes", "-N"),
            *("-L", f"127.0.0.1:{mine}:127.0.0.1:{port}", self._target),
        ]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            try:
                _wait_for(mine, process, self.where)
                yield mine
            finally:
                process.terminate()

    def close(self) -> None:
        """End the shared connection."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                [*self._client, "-O", "exit", self._target], capture_output=True, timeout=10
            )
        shutil.rmtree(self._folder, ignore_errors=True)


def _wait_for(port: int, process: subprocess.Popen, where: str) -> None:
    for _ in range(_FORWARD_TRIES):
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    process.terminate()
    said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
    raise NotReached(f"{where}: the port could not be forwarded: {said or 'no answer'}")
