"""What was made once and can be made again, kept in a folder of the cache by name.

    [ sha256 of what follows | content ]      a file each, there as a whole or not at all

A name is a hash of everything that the content depends on, so an entry is right or it is not
there. One that is damaged counts as not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 32
_PAGE_BYTES = 4096


class KeptFiles:
    """The entries of one folder. Several processes may use it at once."""

    def __init__(self, folder: Path | None) -> None:
        """`folder`: made when something is written; None: nothing is kept, or found."""
        self.folder = folder

    def path(self, name: str) -> Path | None:
        """Where the entry lies, or would."""
        return None if self.folder is None else self.folder / f"{name}.bin"

    def read(self, name: str) -> bytes | None:
        """The content kept under `name`; None where there is none, or a damaged one."""
        path = self.path(name)
        try:
            content = b"" if path is None else path.read_bytes()
        except OSError:
            return None
        if not content:
            return None
        if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
            logger.warning("%s is damaged; compiling again", path)
            return None
        self._used(path)
        return content[_DIGEST_BYTES:]

    def write(self, name: str, content: bytes) -> None:
        """Keep `content`; where the disk refuses it, it is made again the next time."""
        self._write(name, [hashlib.sha256(content).digest(), content])

    def mapped(self, name: str) -> np.ndarray | None:
        """The bytes that `write_pages` kept, mapped: unchecked, and they stay though the file goes.

        None where there is no such entry.
        """
        path = self.path(name)
        try:
            if path is None or path.stat().st_size <= _PAGE_BYTES:
                return None
            found = np.memmap(path, np.uint8, "r", _PAGE_BYTES)
        except OSError:
            return None
        self._used(path)
        return found

    def write_pages(self, name: str, content: memoryview) -> None:
        """As `write`, for `mapped`: the content begins at a page of its own."""
        self._write(name, [bytes(_PAGE_BYTES), content])

    def _write(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        path = self.path(name)
        if path is None:
            return
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.writelines(parts)
            beside.replace(path)
        except OSError as error:  # the next build makes it again; this one has what it needs
            logger.warning("%s is not kept: %s", path, error.strerror)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)

    @staticmethod
    def _used(path: Path | None) -> None:
        """The entry was of use just now: see `bound`."""
        if path is not None:
            with contextlib.suppress(OSError):  # a cache that cannot be written
                os.utime(path)


def bound(folders: Iterable[Path], most_bytes: int, *, since: float) -> None:
    """Remove the entries that were of use the longest ago, until `most_bytes` are left.

    Those of use after `since`, in seconds of the system's clock, stay whatever they take.
    """
    found = []
    for folder in folders:
        for path in folder.glob("*.bin"):
            with contextlib.suppress(OSError):  # somebody else removed it
                about = path.stat()
                found.append((about.st_mtime, about.st_size, path))
    total = 0
    for used, nbytes, path in sorted(found, reverse=True):
        total += nbytes
        if total > most_bytes and used < since:
            with contextlib.suppress(OSError):
                path.unlink()
