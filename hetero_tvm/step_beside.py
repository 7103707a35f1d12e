"""One step of a language model lowered in a process beside ours, where a second core is idle.

    ours      step 1, step 32 ..  ▸  its turn: `kept_steps` has step 128
    beside    step 128            ▸  kept

The process makes what this one would, so its failure is none of the build's: the step is then
lowered here, and whatever is wrong is said here.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hetero_tvm import child_python
from hetero_tvm.config import BuildConfig

logger = logging.getLogger(__name__)

_LEAST_BYTES = 1 << 26  # of a model's file whose steps take longer than a process takes to start
_MODULE = "hetero_tvm.step_beside"
_PATIENCE_S = 10.0  # for a process that was asked to end
_PR_SET_PDEATHSIG = 1
_PATHS = ("model", "output", "cache_dir")
# What no step that is kept depends on, or is of a kind of build whose steps are not kept.
_NOT_SENT = frozenset("llm sign reprofile check db dump_ir samples inputs npu_rows".split())


class StepBeside:
    """The process, while it runs."""

    def __init__(self, process: subprocess.Popen[str], rows: int) -> None:
        """`rows`: the step that it lowers."""
        self.process = process
        self.rows = rows

    def wait(self) -> tuple[str, ...]:
        """Wait for its end; what it noted, nothing where it failed."""
        said, errors = self.process.communicate()
        if self.process.returncode:
            logger.info("step %d: %s", self.rows, errors.strip() or self.process.returncode)
            return ()
        return tuple(json.loads(said)["notes"])


def pays(model: Path) -> bool:
    """Whether a process beside ours would be done sooner: `model` is large, and there is a core."""
    usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    size = sum(path.stat().st_size for path in model.parent.glob(f"{model.name}*"))
    return len(usable(0)) > 1 and size >= _LEAST_BYTES


@contextlib.contextmanager
def lowering(
    config: BuildConfig, rows: int, *, prefill: Sequence[int] | None, capacity: int | None
) -> Iterator[StepBeside]:
    """The step of `rows` tokens is lowered and kept meanwhile; leaving ends the process.

    Args:
        config: of the build; its `model` is the folder.
        rows: which step.
        prefill, capacity: as for `llm_build.build`.
    """
    assert config.output is not None
    with tempfile.TemporaryDirectory(
        prefix=f".{config.output.name}.", dir=config.output.parent
    ) as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=child_python.environment(),
            start_new_session=True,  # Ctrl-C is the parent's: it ends the process below
        )
        try:
            sent = dataclasses.replace(config, output=Path(folder).resolve() / config.output.name)
            job = {"config": _plain(sent), "rows": rows, "prefill": prefill, "capacity": capacity}
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it ended: `wait` says so
                process.stdin.write(json.dumps({**job, "parent": os.getpid()}) + "\n")
                process.stdin.flush()
            yield StepBeside(process, rows)
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Have it remove what it was writing, and end."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _plain(config: BuildConfig) -> dict[str, Any]:
    """The fields as JSON has them."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in fields.items()
        if name not in _NOT_SENT
    }


def _config(fields: dict[str, Any]) -> BuildConfig:
    """What `_plain` was given, with defaults for what is not sent."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    values |= {name: Path(values[name]) for name in _PATHS}
    return BuildConfig(**values)


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)


def main() -> int:
    """Lower the step that a line of JSON on the standard input asks for."""
    signal.signal(signal.SIGTERM, _terminated)
    # Drivers print to standard output; the answer goes to a copy of it.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    if sys.platform == "linux":  # nobody would end it after a parent that was killed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != job["parent"]:
            return 128 + signal.SIGTERM
    from hetero_tvm import llm_build

    notes: list[str] = []
    llm_build.lower_one(
        _config(job["config"]),
        job["rows"],
        prefill=job["prefill"],
        capacity=job["capacity"],
        note=notes.append,
    )
    print(json.dumps({"notes": notes}), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
