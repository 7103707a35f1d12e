"""Large constants of a module in a file, so that memory holds those only that are being worked on.

    with ConstantFile(folder):          constants made in here lie in pages of a file that has no
        constant = held_constant(array)     name, and which the system may take away at any time
        forget_pages()                      ... which this asks it to do

A build of a language model makes every weight several times: as imported, cut, packed. Its memory
would be that of several models. Outside of such a context constants are ordinary memory.
"""

from __future__ import annotations

import contextlib
import contextvars
import mmap
import tempfile
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from tvm import relax, runtime
from tvm.ir import GenericConst

_LEAST_BYTES = 1 << 16  # smaller ones are not worth pages of their own
_FORGET_BYTES = 1 << 26  # that are written, until what was read meanwhile is let go of


class ConstantFile:
    """The file; leaving the context keeps constants alive that somebody still has."""

    def __init__(self, folder: Path) -> None:
        """`folder`: of the file; one that is no memory."""
        self._folder = folder
        self._maps: list[weakref.ref[mmap.mmap]] = []
        self._nbytes = 0
        self._since = 0  # bytes written since pages were forgotten

    def __enter__(self) -> ConstantFile:
        self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)
        self._token = _current.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _current.reset(self._token)
        self._file.close()  # what is mapped stays mapped

    def hold(self, array: np.ndarray) -> Any:
        """A tensor with the values of `array`, which is dense, in the file."""
        at = -(-self._nbytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        self._file.seek(at)
        left = memoryview(array.reshape(-1).view(np.uint8).data)
        while left:
            left = left[self._file.write(left) :]
        self._nbytes = at + array.nbytes
        self._since += array.nbytes
        # Private and writable, as DLPack wants it; nobody writes to a constant.
        mapped = mmap.mmap(self._file.fileno(), array.nbytes, offset=at, access=mmap.ACCESS_COPY)
        self._maps.append(weakref.ref(mapped))
        if self._since > _FORGET_BYTES:
            self.forget()
        return runtime.from_dlpack(np.frombuffer(mapped, array.dtype).reshape(array.shape))

    def forget(self) -> None:
        """Let go of the pages of all constants; they are read again when they are looked at."""
        self._since = 0
        alive = [(one, mapped) for one in self._maps if (mapped := one()) is not None]
        for _, mapped in alive:
            mapped.madvise(mmap.MADV_DONTNEED)
        self._maps = [one for one, _ in alive]


_current: contextvars.ContextVar[ConstantFile | None] = contextvars.ContextVar(
    "constant_file", default=None
)


def held_constant(array: np.ndarray) -> relax.Expr:
    """A constant that owns a copy of `array`: in the file, where there is one and it is large."""
    array = np.asarray(array, order="C")
    file = _current.get()
    if file is None or array.nbytes < _LEAST_BYTES or array.dtype.kind not in "fiu":
        return relax.const(runtime.tensor(array))
    return relax.const(file.hold(array))


def moved(constant: relax.Expr) -> relax.Expr:
    """`constant` in the file, where it is a large one that is not; anything else as it is."""
    if _current.get() is None or not isinstance(constant, GenericConst):
        return constant
    try:
        array = np.from_dlpack(constant.value)
    except (BufferError, RuntimeError, TypeError, ValueError):  # a type that numpy has not
        return constant
    return constant if array.nbytes < _LEAST_BYTES else held_constant(array)


def forget_pages() -> None:
    """Let go of what lies in the file, if there is one."""
    file = _current.get()
    if file is not None:
        file.forget()


def in_file(folder: Path | None) -> contextlib.AbstractContextManager[Any]:
    """A context whose large constants lie in a file in `folder`; None: an ordinary one."""
    return contextlib.nullcontext() if folder is None else ConstantFile(folder)
