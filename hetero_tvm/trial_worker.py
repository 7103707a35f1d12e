"""The process that builds and runs trial kernels on one device: `hetero_tvm.trial_worker`.

Started by the tuner, once for each device: `local`, `rpc://HOST:PORT` or
`tracker://HOST:PORT/KEY`. It talks on its standard input and output (`schedules.trials`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

import tvm

from hetero_tvm import runtime
from hetero_tvm.errors import HeteroError
from schedules.trials import Server, TrialDevice, serve

_FREE_S = 10.0
_SESSION_S = 3600 * 24  # a tracker's device is ours while we work


def connect(where: str) -> TrialDevice:
    """The device `where`.

    Raises:
        HeteroError, OSError, RuntimeError: it is not there.
    """
    runtime.load()
    if where == "local":
        return TrialDevice(None, runtime.open_opencl(), runtime.sync)
    session = _session(where)
    device = session.device("opencl", 0)
    if not device.exist:
        raise HeteroError(f"{where} has no OpenCL device")
    return TrialDevice(session, device, device.sync)


def _session(where: str) -> Any:
    from tvm import rpc

    scheme, _, rest = where.partition("://")
    address, _, key = rest.partition("/")
    host, _, port = address.rpartition(":")
    if scheme == "tracker":
        tracker = rpc.connect_tracker(host, int(port))
        _wait_for_free(tracker, key)  # a request would wait for ever
        return tracker.request(key, session_timeout=_SESSION_S)
    return rpc.connect(host, int(port), session_timeout=_SESSION_S)


def _wait_for_free(tracker: Any, key: str) -> None:
    """Give a device that was in use a moment to come back."""
    end = time.monotonic() + _FREE_S
    while int(tracker.summary()["queue_info"].get(key, {}).get("free", 0)) == 0:
        if time.monotonic() > end:
            raise HeteroError(f"no free device is called {key}")
        time.sleep(0.2)


def main(argv: list[str] | None = None) -> int:
    """Serve one device."""
    parser = argparse.ArgumentParser(prog="hetero_tvm.trial_worker")
    parser.add_argument("--device", required=True)
    parser.add_argument("--target", required=True, help="TVM target as JSON")
    args = parser.parse_args(argv)
    # Drivers print to standard output; answers go to a copy of it.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        device = connect(args.device)
    except Exception as error:  # noqa: BLE001  (whatever it is, the asker has to know)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(json.dumps({"error": lines[-1][:300]}), file=answers, flush=True)
        return 3
    serve(Server(device, tvm.target.Target(json.loads(args.target))), sys.stdin, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
