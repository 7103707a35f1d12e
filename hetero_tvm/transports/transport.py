"""A way to a device: run a command there, push and pull files, ask for space, forward a port.

Everything is built on one thing that each kind of device has to offer: a local command line that
runs a shell command over there and passes stdin, stdout, stderr and the exit code through, as `ssh`
does. So a new kind is one class with `argv`. What runs there is plain POSIX shell with `cat`, `mv`,
`wc`, `tail`, `df` and `sha256sum`, which Debian, BusyBox and Android's toybox have alike.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import hashlib
import logging
import os
import posixpath
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from hetero_tvm.errors import DeviceFailure, EnvironmentProblem, NotReached, StorageFull

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 18
_TIMEOUT_S = 120.0
_WHOLE_BYTES = 1 << 18  # what is smaller is not resumed but sent again, without a question first
_DAMAGED = "hetero-damaged"
_NO_SPACE = "No space left on device"
Meter = Callable[[int], None]  # told of every block: bytes that went over


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """What it said on stdout, without the last line's end."""
        return self.stdout.decode(errors="replace").rstrip("\n")


class Transport(abc.ABC):
    """One device. Use as a context manager: leaving it gives connections back."""

    def __init__(self, where: str) -> None:
        self.where = where  # as errors and tables name it

    @abc.abstractmethod
    def argv(self, command: str) -> list[str]:
        """The local command line that runs the shell command `command` on the device."""

    @abc.abstractmethod
    def default_root(self) -> str:
        """Shell word, expanded there, for the folder that deployments go to."""

    def environment(self) -> Mapping[str, str]:
        """Variables that our program needs there, whatever the model."""
        return {}

    @abc.abstractmethod
    def forward(self, port: int) -> contextlib.AbstractContextManager[int]:
        """A port on this machine's loopback that leads to the device's loopback `port`."""

    def is_lost(self, code: int) -> bool:
        """Whether this exit code means that the device was not reached, or was lost."""
        return False

    def never_began(self, said: bytes) -> bool:
        """Whether what was lost had not begun there yet, so that it may be tried again."""
        return False

    def why_lost(self, said: str) -> str:
        """A hint on top of what the tool said when the device was not reached."""
        return ""

    def close(self) -> None:  # noqa: B027 - most ways have nothing to give back
        """Give connections back."""

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, command: str, *, data: bytes = b"", timeout_s: float | None = _TIMEOUT_S) -> Done:
        """Run `command` in a shell there; `data` is its stdin.

        Raises:
            DeviceFailure: not reached, lost on the way, or silent for `timeout_s`.
            EnvironmentProblem: the local tool is missing.
        """
        logger.debug("%s: %s", self.where, command)
        words = self.argv(command)
        try:
            done = subprocess.run(
                words, input=data, capture_output=True, timeout=timeout_s, check=False
            )
            if self.is_lost(done.returncode) and self.never_began(done.stderr):
                done = subprocess.run(
                    words, input=data, capture_output=True, timeout=timeout_s, check=False
                )
        except subprocess.TimeoutExpired:
            raise NotReached(
                f"{self.where}: no answer in {timeout_s:.0f} s to: {_short(command)}"
            ) from None
        except OSError as error:
            raise self._no_tool(error) from error
        said = done.stderr.decode(errors="replace").strip()
        if self.is_lost(done.returncode):
            raise self._lost(said)
        return Done(done.returncode, done.stdout, said)

    def check(
        self, command: str, *, data: bytes = b"", timeout_s: float | None = _TIMEOUT_S
    ) -> str:
        """`run`, and what it said on stdout; DeviceFailure where its exit code is not 0."""
        done = self.run(command, data=data, timeout_s=timeout_s)
        if done.code != 0:
            raise self._failed(command, done.code, done.stderr or done.text)
        return done.text

    def push(self, source: Path | bytes, path: str, *, meter: Meter | None = None) -> int:
        """Put a file at `path` there, whole or not at all; goes on where an earlier try stopped.

        What has arrived lies in `path` + ".part" until its SHA-256 is the source's. Returns the
        bytes that travelled.

        Raises:
            DeviceFailure: lost on the way, no room, or damaged twice.
        """
        with _opened(source) as file:
            size, digest = _measured(file)
            part = shlex.quote(f"{path}.part")
            folder = f"mkdir -p {shlex.quote(posixpath.dirname(path))}"
            # What is short was cut off by a lost line, and is what the next try goes on with.
            finish = (
                f"if [ $(wc -c <{part}) -lt {size} ]; then exit 1; "
                f'elif [ "$(sha256sum <{part} | cut -c 1-64)" = {digest} ]; '
                f"then mv -f {part} {shlex.quote(path)}; else rm -f {part}; echo {_DAMAGED}; fi"
            )
            travelled = 0
            for attempt in range(2):  # the second from the start, if what lay there was damaged
                start = 0
                if attempt == 0 and size > _WHOLE_BYTES:
                    there = self.check(f"{folder} && wc -c 2>/dev/null <{part} || echo 0")
                    start = int(there.split()[-1])
                    start = start if start <= size else 0
                file.seek(start)
                if start:
                    logger.info("%s: goes on at byte %d of %d", path, start, size)
                write = f"cat >>{part}" if start else f"{folder} && cat >{part}"
                said = self._stream(file, f"{write} && {finish}", meter)
                travelled += size - start
                if _DAMAGED not in said:
                    return travelled
        raise DeviceFailure(f"{self.where}: {path} arrived damaged twice; is its storage sound?")

    def pull(self, path: str, target: Path) -> None:
        """Copy the file at `path` there to `target` here, whole or not at all."""
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        command = f"cat {shlex.quote(path)}"
        try:
            with part.open("wb") as file, tempfile.TemporaryFile() as errors:
                try:
                    code = subprocess.run(
                        self.argv(command),
                        stdin=subprocess.DEVNULL,
                        stdout=file,
                        stderr=errors,
                        check=False,
                    ).returncode
                except OSError as error:
                    raise self._no_tool(error) from error
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip()
            if code != 0:
                raise self._lost(said) if self.is_lost(code) else self._failed(command, code, said)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def free_bytes(self, path: str) -> int:
        """Room on the storage of `path`, whose folder must exist."""
        fields = self.check(f"df -Pk {shlex.quote(path)} | tail -n 1").split()
        try:
            return int(fields[-3]) * 1024
        except (IndexError, ValueError):
            raise DeviceFailure(f"{self.where}: df said {' '.join(fields)!r}") from None

    def _stream(self, file: BinaryIO, command: str, meter: Meter | None) -> str:
        """Send what is left of `file` into `command`'s stdin; what it said on stdout."""
        with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as output:
            try:
                process = subprocess.Popen(
                    self.argv(command), stdin=subprocess.PIPE, stdout=output, stderr=errors
                )
            except OSError as error:
                raise self._no_tool(error) from error
            with process:
                assert process.stdin is not None
                try:
                    while block := file.read(_BLOCK_BYTES):
                        process.stdin.write(block)
                        if meter is not None:
                            meter(len(block))
                    process.stdin.close()
                except BrokenPipeError:  # its exit code says why
                    with contextlib.suppress(BrokenPipeError):
                        process.stdin.close()
                except BaseException:
                    process.kill()
                    raise
                code = process.wait()
            errors.seek(0)
            output.seek(0)
            said = errors.read().decode(errors="replace").strip()
            if self.is_lost(code):
                raise self._lost(said)
            if code != 0:
                raise self._failed(command, code, said)
            return output.read().decode(errors="replace")

    def _lost(self, said: str) -> DeviceFailure:
        hint = self.why_lost(said)
        last = (said.splitlines() or ["the connection broke off"])[-1].strip()
        return NotReached(
            f"{self.where}: not reached: {last}{'; ' + hint if hint else ''}. "
            "The same command goes on where this one stopped"
        )

    def _failed(self, command: str, code: int, said: str) -> DeviceFailure:
        last = (said.splitlines() or [f"exit code {code}"])[-1].strip()
        if _NO_SPACE in said:
            return StorageFull(
                f"{self.where}: its storage is full. Make room there, then run the same command "
                "again; it goes on where this one stopped"
            )
        return DeviceFailure(f"{self.where}: `{_short(command)}` failed: {last}")

    def _no_tool(self, error: OSError) -> EnvironmentProblem:
        tool = self.argv("true")[0]
        return EnvironmentProblem(f"{self.where}: cannot start {tool}: {error.strerror or error}")


def _short(command: str) -> str:
    line = command.replace("\n", "; ")
    return line if len(line) <= 80 else f"{line[:77]}..."


@contextlib.contextmanager
def _opened(source: Path | bytes) -> Iterator[BinaryIO]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    else:
        with tempfile.SpooledTemporaryFile(max_size=1 << 24) as spooled:
            spooled.write(source)
            spooled.seek(0)
            yield spooled  # type: ignore[misc]


def _measured(file: BinaryIO) -> tuple[int, str]:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    return file.tell(), digest.hexdigest()
