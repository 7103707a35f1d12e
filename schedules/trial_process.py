"""The process of one device: started, asked with a limit on time, and ended with all it started.

What crashes there, or hangs, is a `Gone`; the next request starts the process again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from typing import Any

START_S = 120.0  # importing TVM on a busy machine; connecting


class Gone(Exception):
    """The process of a device ended or did not answer in time."""

    def __init__(self, kind: str, what: str) -> None:
        self.kind = kind
        super().__init__(what)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where to measure: how it is called, and the command of the process that serves it."""

    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    far: bool = False  # the connection can break without a kernel's fault


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """What a device says that it is."""

    device: str
    driver: str


class Worker:
    """The process of one device. Used by one thread at a time."""

    def __init__(self, place: Place, limit_s: float) -> None:
        self.place = place
        self.limit_s = limit_s
        self.process: subprocess.Popen[bytes] | None = None
        self.identity: Identity | None = None
        self._log = tempfile.TemporaryFile()
        self._rest = b""

    def start(self) -> Identity:
        """Start the process and ask what its device is."""
        self.stop()
        self._rest = b""
        self._log.truncate(0)
        self.process = subprocess.Popen(
            self.place.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **dict(self.place.environment)},
            # Its own group: Ctrl-C ends us, and we end it.
            start_new_session=True,
        )
        answer = self._exchange({"do": "hello"}, START_S)
        if "error" in answer:
            raise Gone("start", answer["error"])
        self.identity = Identity(**answer)
        return self.identity

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer; raises `Gone` where there is none."""
        if self.process is None:
            try:
                self.start()
            except Gone as error:  # not the request's fault
                raise Gone("start", str(error)) from None
        return self._exchange(request, self.limit_s)

    def stop(self) -> None:
        """End the process, if there is one."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process = None

    def _exchange(self, request: dict[str, Any], limit_s: float) -> dict[str, Any]:
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        deadline = time.monotonic() + limit_s
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            while b"\n" not in self._rest:
                left = deadline - time.monotonic()
                ready, _, _ = select.select([process.stdout], [], [], max(0.0, left))
                if not ready:
                    self.stop()
                    raise Gone("timeout", f"no answer within {limit_s:.0f} s")
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise BrokenPipeError
                self._rest += chunk
        except (BrokenPipeError, ValueError):  # closed, here or there
            said, code = self._last_words(), process.wait()
            self.stop()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise Gone("crash", f"its process ended ({how}){said}") from None
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            return json.loads(line)
        except ValueError:
            self.stop()
            raise Gone("crash", f"its process said {line[:80]!r}") from None

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read()[-2000:].decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""
