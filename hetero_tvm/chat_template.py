"""Chat templates in a process with limits: a template may neither run nor write without end."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetero_tvm import child_python
from hetero_tvm.errors import MissingPackage, TokenizerUnusable

LIMIT_S = 2  # of a processor; templates of real models take a millisecond
LIMIT_BYTES = 512 << 20  # of memory, Python's own included
LIMIT_CHARACTERS = 4 << 20  # of text; longer than any model's context
_PATIENCE_S = 60.0  # for an answer, however busy the machine is

_WORKER = Path(__file__).with_name("template_worker.py")


class _Worker:
    """The process, made when it is first needed and again after it ended; one request at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the process and its pipes
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0  # a fork must not speak through its parent's pipes

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer, or an error that says which limit was met."""
        line = json.dumps(request)
        with self._lock:
            process = self._started()
            with contextlib.suppress(BrokenPipeError):
                assert process.stdin is not None
                process.stdin.write(line + "\n")
                process.stdin.flush()
            answer = self._read(process)
            if answer is not None:
                return answer
            process.kill()
            code = process.wait()
            self._process = None
        if code == -signal.SIGXCPU:
            return {"error": f"it computes for more than {LIMIT_S} s"}
        return {"error": f"the process that runs it ended with {code}"}

    def _started(self) -> subprocess.Popen[str]:
        running = self._process
        if running is not None and self._owner == os.getpid() and running.poll() is None:
            return running
        limits = (LIMIT_S, LIMIT_BYTES, LIMIT_CHARACTERS)
        process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), *map(str, limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=child_python.environment(),
            start_new_session=True,  # Ctrl-C is for us
        )
        if self._read(process) is None:
            process.kill()
            raise TokenizerUnusable(f"the process for chat templates ended with {process.wait()}")
        self._process, self._owner = process, os.getpid()
        return process

    @staticmethod
    def _read(process: subprocess.Popen[str]) -> dict[str, Any] | None:
        assert process.stdout is not None
        timer = threading.Timer(_PATIENCE_S, process.kill)
        timer.start()
        try:
            line = process.stdout.readline()
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer


_worker = _Worker()


def render(template: str, values: Mapping[str, Any]) -> str:
    """The text that `template` makes of `values`, which are what JSON can hold.

    Raises:
        TokenizerUnusable: the template cannot be read, refuses the values, or meets a limit.
        MissingPackage: Jinja is not installed.
    """
    if importlib.util.find_spec("jinja2") is None:
        raise MissingPackage("No module named 'jinja2': pip install 'hetero-tvm[llm]'")
    try:
        answer = _worker.ask({"template": template, "values": values})
    except (TypeError, ValueError) as error:  # not JSON
        raise TokenizerUnusable(f"the messages are not plain data: {error}") from error
    if "text" not in answer:
        raise TokenizerUnusable(
            f"the model's chat template refuses the messages: {answer['error']}"
        )
    return str(answer["text"])
