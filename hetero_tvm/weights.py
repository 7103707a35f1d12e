"""Weights of large models: a part of the artefact that is no code.

    main(x): uses constants          main(x, weight_0, weight_1, ..): takes them
                               ▸     [ library | weights | manifest | footer ]

TVM carries constants inside the library: in a model of half a gigabyte linking takes minutes and
ten times the memory. Here every large constant is written to a file as soon as its function is
lowered, equal ones once, parts of others as views of these, and becomes a parameter; the loader
maps the file and gives all functions tensors on it. What NPU regions hold goes the same way
(`npu_onnx.OutsideWeight`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from tvm import relax
from tvm.ir import GenericConst
from tvm.relax.expr_functor import PyExprMutator, mutator

from hetero_tvm import memory
from hetero_tvm.frontend.tensor_spec import TensorSpec
from hetero_tvm.kept_files import KeptFiles
from hetero_tvm.weights_layout import VIEW_ALIGNMENT, Weights, aligned
from relay_passes.constant_file import looked_at
from relay_passes.constants import values_of

_GIVEN = "num_input"  # of a function: the parameters before its weights; VMShapeLower's name for it
_LARGE_BYTES = 4096  # smaller constants stay in the code
_CHUNK_BYTES = 1 << 22
_SLAB_ROWS = 8  # parts begin at multiples of it: what `cut_choices` tries
_SLAB_BYTES = 1 << 15


@dataclasses.dataclass(frozen=True)
class Known:
    """What a weight is told by, in whatever build."""

    dtype: str
    shape: tuple[int, ...]
    digest: bytes
    slabs: tuple[bytes, ...]  # checksums of its parts along the first axis; empty: never cut

    @property
    def key(self) -> tuple[str, tuple[int, ...], bytes]:
        """Equal of equal weights."""
        return (self.dtype, self.shape, self.digest)

    @property
    def name(self) -> str:
        """Of the file that it is kept in."""
        return hashlib.sha256(repr(self.key).encode()).hexdigest()


@dataclasses.dataclass(eq=False)
class _Stored:
    """One weight."""

    spec: TensorSpec
    known: Known
    kept: np.ndarray | None = None  # its bytes, where they are mapped

    @property
    def slabs(self) -> tuple[bytes, ...]:
        return self.known.slabs

    @property
    def row(self) -> tuple[object, ...]:
        """What parts of two weights must have in common."""
        return (self.spec.dtype, self.spec.shape[1:])


class WeightStore:
    """Collects weights in a temporary file beside the artefact; leaving the context removes it.

    What a function or an NPU region takes may be a part of a longer weight: then it is a view of
    that one. Which weights there are, and so where they lie, is known at the end only.
    """

    def __init__(self, artefact: Path, kept: KeptFiles | None = None) -> None:
        """`kept`: they are written there instead, for other builds; see `adopt`."""
        self._kept = kept or KeptFiles(None)
        self._file = tempfile.NamedTemporaryFile(
            prefix=f".{artefact.name}.", suffix=".weights.part", dir=artefact.parent
        )
        self._known: dict[object, int] = {}
        self._stored: list[_Stored] = []
        self._at: dict[int, int] = {}  # where each is in the file
        # A slab and its row -> which weight has it where, of those that were written.
        self._slabs: dict[tuple[object, ...], list[tuple[int, int]]] = {}
        self._nbytes = 0  # of the file
        self.of_function: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> WeightStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """All weights, views too."""
        return tuple(stored.spec for stored in self._stored)

    def spec_of(self, index: int) -> TensorSpec:
        """The weight of that number."""
        return self._stored[index].spec

    @property
    def nbytes(self) -> int:
        """What they will take in the artefact."""
        return self._layout()[1]

    def places(self) -> list[int]:
        """Where each weight will lie, in bytes from the first, once all of them are known."""
        return self._layout()[0]

    def lift(self, name: str, function: relax.Function) -> relax.Function:
        """`function` with its large constants as parameters behind its own."""
        lifter = _Lifter(self)
        body = lifter.visit_expr(function.body)
        self.of_function[name] = tuple(lifter.found)
        params = [*function.params, *lifter.found.values()]
        lifted = relax.Function(params, body, function.ret_ty, function.is_pure, function.attrs)
        # The virtual machine looks at what users give, in every run; weights are the loader's.
        return lifted.with_attr(_GIVEN, len(function.params))

    def index_of(self, array: np.ndarray) -> int:
        """The number of a weight with these bytes; written where there is none yet."""
        array = np.ascontiguousarray(array)
        known = _known(array)
        index = self._known.get(known.key)
        return self._add(known, array) if index is None else index

    def known(self, index: int) -> Known:
        """What the weight of that number is told by."""
        return self._stored[index].known

    def adopt(self, known: Known) -> int | None:
        """The number of a weight that was kept; None: it is not there, or damaged."""
        index = self._known.get(known.key)
        if index is not None:
            return index
        spec = TensorSpec(name="", dtype=known.dtype, shape=known.shape)
        if self._view_of(_Stored(spec, known), self._at) is not None:
            return self._add(known, None)
        found = self._kept.mapped(known.name)
        if found is None or found.nbytes != spec.size_bytes:
            return None
        array = found.view(np.dtype(known.dtype)).reshape(known.shape)
        is_whole = _known(array) == known
        memory.forget_pages(found)
        return self._add(known, array, found) if is_whole else None

    def _add(self, known: Known, array: np.ndarray | None, kept: np.ndarray | None = None) -> int:
        """The number of a new weight; `array`: its values, where it is no view. `kept`: mapped."""
        index = self._known[known.key] = len(self._stored)
        spec = TensorSpec(name=f"weight_{index}", dtype=known.dtype, shape=known.shape)
        stored = _Stored(spec, known)
        self._stored.append(stored)
        view = self._view_of(stored, self._at)
        self._at[index] = self._nbytes if view is None else view
        if view is None:
            assert array is not None
            stored.kept = self._written(known, array) if kept is None else kept
            if stored.kept is None:
                self._file.write(array.data)
                self._nbytes += array.nbytes
            for number, slab in enumerate(known.slabs):
                self._slabs.setdefault((slab, *stored.row), []).append((index, number))
        return index

    def _written(self, known: Known, array: np.ndarray) -> np.ndarray | None:
        """The bytes of `array` where they are kept; None: nowhere."""
        content = array.reshape(-1).view(np.uint8)
        found = self._kept.mapped(known.name)
        # Reading what an earlier build kept takes a fraction of writing it again.
        if found is None or not _is_same(found, content):
            self._kept.write_pages(known.name, content.data)
            found = self._kept.mapped(known.name)
        if found is None or found.nbytes != array.nbytes:
            return None
        memory.forget_pages(found)
        return found

    def _layout(self) -> tuple[list[int], int]:
        """Where each weight will lie, and what all of them take: long ones before their parts."""
        places: dict[int, int] = {}
        end = 0
        for index in sorted(
            range(len(self._stored)), key=lambda index: -len(self._stored[index].slabs)
        ):
            stored = self._stored[index]
            view = self._view_of(stored, places)
            places[index] = end if view is None else view
            end += aligned(stored.spec.size_bytes) if view is None else 0
        return [places[index] for index in range(len(self._stored))], end

    def _view_of(self, stored: _Stored, places: Mapping[int, int]) -> int | None:
        """Where `stored` lies inside of a weight that has its place; None: in none of them."""
        if not stored.slabs:
            return None
        count = len(stored.slabs)
        for index, first in self._slabs.get((stored.slabs[0], *stored.row), ()):
            whole = self._stored[index].slabs
            if index in places and whole[first : first + count] == stored.slabs:
                return places[index] + first * (stored.spec.size_bytes // count)
        return None

    def write(self, file: IO[bytes], offset: int) -> Weights:
        """Append the weights to `file`, which is `offset` bytes long; what to say of them."""
        places, end = self._layout()
        digest = hashlib.sha256()
        written = 0

        def write(data: bytes | memoryview) -> None:
            nonlocal written
            file.write(data)
            digest.update(data)
            written += len(data)

        self._file.flush()
        with Path(self._file.name).open("rb") as source:
            # The longest first of those that begin together: the others are views of it.
            order = [
                (places[n], -stored.spec.size_bytes, n) for n, stored in enumerate(self._stored)
            ]
            for place, _, index in sorted(order):
                if place != written:
                    continue  # a view
                stored = self._stored[index]
                left = stored.spec.size_bytes
                if stored.kept is not None:
                    for begin in range(0, left, _CHUNK_BYTES):
                        write(stored.kept[begin : begin + _CHUNK_BYTES].data)
                    memory.forget_pages(stored.kept)
                    left = 0
                source.seek(self._at[index])
                while left:
                    data = source.read(min(left, _CHUNK_BYTES))
                    write(data)
                    left -= len(data)
                write(bytes(aligned(stored.spec.size_bytes) - stored.spec.size_bytes))
        assert written == end
        return Weights(
            offset=offset,
            nbytes=written,
            sha256=digest.hexdigest(),
            tensors=self.tensors,
            places=tuple(places),
            of_function=dict(self.of_function),
        )


def _known(array: np.ndarray) -> Known:
    slabs = _slabs(array)
    digest = hashlib.sha256(b"".join(slabs) if slabs else array.data).digest()
    return Known(array.dtype.name, array.shape, digest, slabs)


def _is_same(first: np.ndarray, second: np.ndarray) -> bool:
    """Are these bytes equal? Looked at by and by: a comparison makes an array of its own."""
    return first.nbytes == second.nbytes and all(
        np.array_equal(first[at : at + _CHUNK_BYTES], second[at : at + _CHUNK_BYTES])
        for at in range(0, first.nbytes, _CHUNK_BYTES)
    )


def _slabs(array: np.ndarray) -> tuple[bytes, ...]:
    """Checksums of the stretches of rows at which a view of `array` may begin or end; none: none.

    Whole multiples of a view's alignment, and of up to `_SLAB_ROWS` rows where those are short: a
    checksum takes as much memory as a row of a small model. How many depends on a row's length
    alone, so that a weight and a part of it have the same.
    """
    if array.ndim < 2 or not array.size:
        return ()
    row_bytes = array.nbytes // len(array)
    rows = VIEW_ALIGNMENT // math.gcd(row_bytes, VIEW_ALIGNMENT)
    if len(array) % rows:
        return ()
    longer = rows
    while longer < _SLAB_ROWS and 2 * longer * row_bytes <= _SLAB_BYTES:
        longer *= 2
    if len(array) % longer == 0:
        rows = longer
    stretches = array.reshape(len(array) // rows, -1)
    return tuple(hashlib.sha256(part.data).digest() for part in stretches)


@mutator
class _Lifter(PyExprMutator):
    """One function; `found` are its weights by number."""

    def __init__(self, store: WeightStore) -> None:
        super().__init__()
        self.store = store
        self.found: dict[int, relax.Var] = {}

    def visit_generic_const_(self, constant: GenericConst) -> relax.Expr:
        if _nbytes(constant) < _LARGE_BYTES:
            return constant
        index = self.store.index_of(values_of(constant))
        looked_at([constant])  # all of the model would be in memory at the end
        if index not in self.found:
            spec = self.store.spec_of(index)
            # By its place: the weight's number hangs on what the store had before, and a function
            # that is kept would differ with the build that made it.
            name = f"weight_{len(self.found)}"
            self.found[index] = relax.Var(name, relax.TensorType(spec.shape, spec.dtype))
        return self.found[index]


def _nbytes(constant: GenericConst) -> int:
    value = constant.value
    try:
        itemsize = np.dtype(str(value.dtype)).itemsize
    except TypeError:  # a type that numpy has not
        return 0
    return int(np.prod(value.shape)) * itemsize
