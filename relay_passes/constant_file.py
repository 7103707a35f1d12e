"""Large constants of a module in a file, so that memory holds those only that are being worked on.

    with ConstantFile(folder):          constants made in here lie in pages of a file that has no
        constant = held_constant(array)     name, and which the system may take away at any time
        part = held_part(constant, ..)      ... and it is known what it is a part of
        forget_pages()                      this asks the system to take them

A build of a language model makes every weight several times: as imported, cut, packed. Its memory
would be that of several models. Outside of such a context constants are ordinary memory.

An array that lies in a mapped file already, as a model's weights do, stays where it is: that map is
the constant's memory.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import hashlib
import math
import mmap
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from tvm import relax, runtime
from tvm.ir import GenericConst

_LEAST_BYTES = 1 << 16  # smaller ones are not worth pages of their own
_FORGET_BYTES = 1 << 26  # that are written, until what was read meanwhile is let go of
_CHUNK_BYTES = 1 << 20  # that are made dense at a time
_ALIGNMENT = 64  # of a tensor in memory, as TVM has it


@dataclasses.dataclass(frozen=True)
class Part:
    """What a constant is: [begin, end) of `whole` along `axis`."""

    whole: GenericConst
    axis: int
    begin: int
    end: int


class ConstantFile:
    """The file; leaving the context keeps constants alive that somebody still has."""

    def __init__(self, folder: Path, outer: ConstantFile | None = None) -> None:
        """`folder`: of the file; one that is no memory. `outer`: a file that outlives this one."""
        self.outer = outer
        self._known: dict[object, np.ndarray] = {}  # content -> the array with it in the file
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        self._maps: dict[int, weakref.ref[mmap.mmap]] = {}  # address of a constant -> its memory
        self._parts: dict[int, Part] = {}  # likewise
        self._nbytes = 0
        self._since = 0  # bytes written and read since pages were forgotten

    def __enter__(self) -> ConstantFile:
        self._token = _current.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _current.reset(self._token)
        self.forget()
        self._file.close()  # what is mapped stays mapped

    def hold(self, array: np.ndarray) -> Any:
        """A tensor with the values of `array` in the file, or where a mapped file has them."""
        mapped = _mapping(array)
        if mapped is None:
            array, mapped = self._written(array)
        self._maps[_address(array)] = weakref.ref(mapped)
        self._parts.pop(_address(array), None)
        if self._since > _FORGET_BYTES:
            self.forget()
        return runtime.from_dlpack(array)

    def once(self, array: np.ndarray) -> np.ndarray:
        """`array` in the file, or in the mapped file that it lies in; equal ones are one."""
        mapped = _mapping(array)
        if mapped is not None:
            self._maps[_address(array)] = weakref.ref(mapped)
            return array
        dense = np.ascontiguousarray(array)
        key = (dense.dtype.str, dense.shape, hashlib.sha256(dense.data).digest())
        if key not in self._known:
            self._known[key], mapped = self._written(dense)
            self._maps[_address(self._known[key])] = weakref.ref(mapped)
            if self._since > _FORGET_BYTES:
                (_current.get() or self).forget()  # what it is made of lies in the other file
        return self._known[key]

    def _written(self, array: np.ndarray) -> tuple[np.ndarray, mmap.mmap]:
        at = -(-self._nbytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        self._file.seek(at)
        rows = max(1, _CHUNK_BYTES * len(array) // array.nbytes)
        for first in range(0, len(array), rows):
            dense = np.ascontiguousarray(array[first : first + rows])
            left = memoryview(dense.reshape(-1).view(np.uint8).data)
            while left:
                left = left[self._file.write(left) :]
        self._nbytes = at + array.nbytes
        self._since += array.nbytes
        # Private and writable, as DLPack wants it; nobody writes to a constant.
        mapped = mmap.mmap(self._file.fileno(), array.nbytes, offset=at, access=mmap.ACCESS_COPY)
        return np.frombuffer(mapped, array.dtype).reshape(array.shape), mapped

    def note_read(self, nbytes: int) -> None:
        """So much of the constants was looked at."""
        self._since += nbytes
        if self._since > _FORGET_BYTES:
            self.forget()

    def has(self, array: np.ndarray) -> bool:
        """Whether `array` is a constant that `hold` made."""
        mapped = self._maps.get(_address(array))
        return mapped is not None and mapped() is not None

    def note_part(self, constant: GenericConst, part: Part) -> None:
        """Remember what `constant`, which lies in the file, is a part of."""
        self._parts[_address(np.from_dlpack(constant.value))] = part

    def part(self, constant: GenericConst) -> Part | None:
        """What `constant` is a part of, where it is known."""
        array = np.from_dlpack(constant.value)
        return self._parts.get(_address(array)) if self.has(array) else None

    def forget(self) -> None:
        """Let go of the pages of all constants; they are read again when they are looked at."""
        if self.outer is not None:
            self.outer.forget()
        self._since = 0
        alive = {at: one for at, one in self._maps.items() if one() is not None}
        for one in alive.values():
            mapped = one()
            if mapped is not None:
                mapped.madvise(mmap.MADV_DONTNEED)
        self._maps = alive


def _mapping(array: np.ndarray) -> mmap.mmap | None:
    """The mapped file that a dense array lies in, aligned as a tensor must be; None: in none."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    fits = array.flags.c_contiguous and array.flags.writeable and _address(array) % _ALIGNMENT == 0
    return base if isinstance(base, mmap.mmap) and fits else None


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


_current: contextvars.ContextVar[ConstantFile | None] = contextvars.ContextVar(
    "constant_file", default=None
)


def held_constant(array: np.ndarray) -> relax.Expr:
    """A constant that owns a copy of `array`: in the file, where there is one and it is large."""
    file = _current.get()
    if file is None or array.nbytes < _LEAST_BYTES or array.dtype.kind not in "fiu":
        return relax.const(runtime.tensor(np.asarray(array, order="C")))
    return relax.const(file.hold(array))


def lasting_array(array: np.ndarray) -> np.ndarray:
    """`array` in the file that outlives the one that is worked with; equal ones once.

    Itself where there is no file, or it is a small one.
    """
    file = _current.get()
    if file is None or array.nbytes < _LEAST_BYTES or array.dtype.kind not in "fiu":
        return array
    return (file.outer or file).once(array)


def lasting_constant(array: np.ndarray) -> relax.Expr:
    """`held_constant` of `lasting_array`."""
    return held_constant(lasting_array(array))


def held_part(array: np.ndarray, part: Part) -> relax.Expr:
    """`held_constant` of `array`, of which it is known that it is `part`."""
    constant = held_constant(array)
    file = _current.get()
    if file is not None and array.nbytes >= _LEAST_BYTES:
        file.note_part(constant, part)
    return constant


def part_of(constant: GenericConst) -> Part | None:
    """What a constant of the file that is worked with was made a part of; None: not known."""
    file = _current.get()
    return file.part(constant) if file is not None else None


def moved(constant: relax.Expr) -> relax.Expr:
    """`constant` in the file, where it is a large one that is not; anything else as it is."""
    file = _current.get()
    if file is None or not isinstance(constant, GenericConst):
        return constant
    try:
        array = np.from_dlpack(constant.value)
    except (BufferError, RuntimeError, TypeError, ValueError):  # a type that numpy has not
        return constant
    return constant if array.nbytes < _LEAST_BYTES or file.has(array) else held_constant(array)


def looked_at(constants: Iterable[relax.Expr]) -> None:
    """Those among them that are constants were read; now and then, let go of all that was."""
    file = _current.get()
    if file is not None:
        file.note_read(sum(_nbytes(one) for one in constants if isinstance(one, GenericConst)))


def _nbytes(constant: GenericConst) -> int:
    return math.prod(map(int, constant.value.shape)) * (constant.value.dtype.bits // 8)


def forget_pages() -> None:
    """Let go of what lies in the file, if there is one."""
    file = _current.get()
    if file is not None:
        file.forget()


def in_file(
    folder: Path | None, outer: ConstantFile | None = None
) -> contextlib.AbstractContextManager[ConstantFile | None]:
    """A context whose large constants lie in a file in `folder`; None: an ordinary one.

    `outer`: where those go that outlive it.
    """
    return contextlib.nullcontext() if folder is None else ConstantFile(folder, outer)
