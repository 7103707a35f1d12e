"""How much memory a process has used at most, and that it is given back."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

STATUS = "proc/self/status"


_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h
_LARGE_BYTES = 1 << 20
_SELDOM = (100_000, 50, 100)  # of Python's three generations; it begins with (700, 10, 10)


def give_back_large() -> None:
    """Have every large block of memory go back to the system as soon as it is freed.

    glibc begins so, but keeps blocks as large as any that was freed so far, up to 32 MiB, in a heap
    that only shrinks at its end: after the import of a language model half of the heap was such
    holes. Elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


@contextlib.contextmanager
def few_collections() -> Iterator[None]:
    """Have Python look for garbage in cycles seldom in here.

    Compiling makes millions of objects that live on, and looks at all of them again and again.
    """
    before = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def forget_pages(array: np.ndarray) -> None:
    """Let the pages of a mapped file go that `array` lies in; read again when looked at.

    Of an array in memory, or of a mapping whose file is written, nothing is forgotten. A private
    one, of mode "c", must not have been written to.
    """
    mapping = getattr(array, "_mmap", None)  # what numpy keeps of a memmap, and of views of it
    if isinstance(mapping, mmap.mmap) and getattr(array, "mode", None) in ("r", "c"):
        mapping.madvise(mmap.MADV_DONTNEED)


def mapped_spans(path: Path, since: int) -> list[tuple[int, int]]:
    """Addresses and sizes of what this process has mapped of the file at `path` behind `since`.

    Only mappings that cannot be written; only where the system lists mappings as Linux does.
    """
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return []
    found, name = [], str(path.resolve())
    for line in maps.splitlines():
        if not line.endswith(name):
            continue
        span, allowed, offset, _, _, *mapped = line.split(maxsplit=5)
        if mapped != [name] or "w" in allowed or int(offset, 16) < since:
            continue
        begin, end = (int(number, 16) for number in span.split("-"))
        found.append((begin, end - begin))
    return found


def forget_spans(spans: Sequence[tuple[int, int]]) -> None:
    """Let the pages of mappings go; they are read again when they are looked at.

    `spans`: what `mapped_spans` gave, still mapped.
    """
    libc = ctypes.CDLL(None)
    for begin, nbytes in spans:
        libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(nbytes), mmap.MADV_DONTNEED)


def peak_bytes() -> int:
    """High-water mark of this process's resident memory.

    Linux keeps one per program (`VmHWM`); getrusage's survives exec, so a child would report its
    parent's. Elsewhere getrusage has to do.
    """
    found = read_peak(Path("/"))
    if found is not None:
        return found
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read_peak(root: Path) -> int | None:
    """What `STATUS` below `root` gives as the high-water mark; None where it does not."""
    try:
        for line in (root / STATUS).read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
