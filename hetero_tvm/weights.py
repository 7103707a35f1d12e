"""Weights of large models: a part of the artefact that is no code.

    main(x): uses constants          main(x, weight_0, weight_1, ..): takes them
                               ▸     [ library | weights | manifest | footer ]

TVM carries constants inside the library: in a model of half a gigabyte linking takes minutes and
ten times the memory. Here every large constant is written to a file as soon as its function is
lowered, equal ones once, parts of others as views of these, and becomes a parameter; the loader
maps the file and gives all functions tensors on it. What NPU regions hold goes the same way
(`npu_weights.lift`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst
from tvm.relax.expr_functor import PyExprMutator, mutator

from hetero_tvm.frontend.tensor_spec import TensorSpec
from hetero_tvm.weights_layout import VIEW_ALIGNMENT, Weights, aligned

_LARGE_BYTES = 4096  # smaller constants stay in the code
_CHUNK_BYTES = 1 << 22
_PANELS_NDIM = 3  # what GPU kernels read by strips of columns, of which a shard takes some


@dataclasses.dataclass(eq=False)
class _Stored:
    """One weight."""

    spec: TensorSpec
    slabs: tuple[bytes, ...]  # checksums of its parts along the first axis; empty: never cut
    at: int  # in the file of those that may move
    pinned: int | None = None  # where it lies in the part for good

    @property
    def row(self) -> tuple[object, ...]:
        """What parts of two weights must have in common."""
        return (self.spec.dtype, self.spec.shape[1:])


class WeightStore:
    """Collects weights in temporary files beside the artefact; leaving the context removes them.

    What a function takes may be a part of a longer weight: then it is a view of that one. Which
    weights there are is known at the end only; NPU regions are told at once where theirs lie, so
    those come first, and stay.
    """

    def __init__(self, artefact: Path) -> None:
        self._file, self._moving = (
            tempfile.NamedTemporaryFile(
                prefix=f".{artefact.name}.", suffix=".weights.part", dir=artefact.parent
            )
            for _ in range(2)
        )
        self._known: dict[object, int] = {}
        self._stored: list[_Stored] = []
        self._hash = hashlib.sha256()
        self._nbytes = 0
        self._pinned_bytes = 0
        self._moving_bytes = 0
        self.of_function: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> WeightStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._moving.close()

    @property
    def path(self) -> Path:
        """The file; whole after `description`."""
        return Path(self._file.name)

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """All weights, views too."""
        return tuple(stored.spec for stored in self._stored)

    def spec_of(self, index: int) -> TensorSpec:
        """The weight of that number."""
        return self._stored[index].spec

    @property
    def nbytes(self) -> int:
        """What the file will take."""
        return self._places()[1]

    def lift(self, name: str, function: relax.Function) -> relax.Function:
        """`function` with its large constants as parameters behind its own."""
        lifter = _Lifter(self)
        body = lifter.visit_expr(function.body)
        self.of_function[name] = tuple(lifter.found)
        params = [*function.params, *lifter.found.values()]
        return relax.Function(params, body, function.ret_ty, function.is_pure, function.attrs)

    def offset_of(self, array: np.ndarray) -> int:
        """Where a weight with these bytes lies in the file for good; written there if it is not."""
        stored = self._stored[self._index(array, pin=True)]
        assert stored.pinned is not None
        return stored.pinned

    def index_of(self, array: np.ndarray) -> int:
        """The number of a weight with these bytes; written where there is none yet."""
        return self._index(array, pin=False)

    def _index(self, array: np.ndarray, *, pin: bool) -> int:
        array = np.ascontiguousarray(array)
        slabs = _slabs(array)
        digest = hashlib.sha256(b"".join(slabs) if slabs else array.data).digest()
        key = (array.dtype.name, array.shape, digest)
        index = self._known.setdefault(key, len(self._stored))
        if index == len(self._stored):
            spec = TensorSpec(name=f"weight_{index}", dtype=array.dtype.name, shape=array.shape)
            self._stored.append(_Stored(spec, slabs, self._moving_bytes))
            if not pin:
                self._moving.write(array.data)
                self._moving_bytes += array.nbytes
        stored = self._stored[index]
        if pin and stored.pinned is None:
            stored.pinned = self._nbytes
            self._write(array.data)
            self._write(bytes(aligned(array.nbytes) - array.nbytes))
            self._pinned_bytes = self._nbytes
        return index

    def _write(self, data: Any) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._nbytes += memoryview(data).nbytes

    def _places(self) -> tuple[list[int], int]:
        """Where each weight will lie, and what all of them take: long ones before their parts."""
        places: dict[int, int] = {}
        begins: dict[tuple[object, ...], list[tuple[int, int]]] = {}  # of slabs: weight, which one
        end = self._pinned_bytes
        order = sorted(
            range(len(self._stored)),
            key=lambda index: (self._stored[index].pinned is None, -len(self._stored[index].slabs)),
        )
        for index in order:
            stored = self._stored[index]
            if stored.pinned is not None:
                places[index] = stored.pinned
            else:
                view = self._view_of(stored, begins, places)
                places[index] = end if view is None else view
                end += aligned(stored.spec.size_bytes) if view is None else 0
            for number, slab in enumerate(stored.slabs):
                begins.setdefault((slab, *stored.row), []).append((index, number))
        return [places[index] for index in range(len(self._stored))], end

    def _view_of(
        self,
        stored: _Stored,
        begins: Mapping[tuple[object, ...], Sequence[tuple[int, int]]],
        places: Mapping[int, int],
    ) -> int | None:
        """Where `stored` lies inside of a weight that has its place; None: in none of them."""
        if not stored.slabs:
            return None
        count = len(stored.slabs)
        for index, first in begins.get((stored.slabs[0], *stored.row), ()):
            if self._stored[index].slabs[first : first + count] == stored.slabs:
                return places[index] + first * (stored.spec.size_bytes // count)
        return None

    def description(self, offset: int) -> Weights:
        """What to say of them where they begin at `offset`; the file is whole afterwards."""
        places, end = self._places()
        self._moving.flush()
        with Path(self._moving.name).open("rb") as moving:
            # The longest first of those that begin together: the others are views of it.
            order = [
                (places[n], -stored.spec.size_bytes, n) for n, stored in enumerate(self._stored)
            ]
            for place, _, index in sorted(order):
                if place != self._nbytes:
                    continue  # pinned, or a view
                stored = self._stored[index]
                moving.seek(stored.at)
                left = stored.spec.size_bytes
                while left:
                    data = moving.read(min(left, _CHUNK_BYTES))
                    self._write(data)
                    left -= len(data)
                self._write(bytes(aligned(stored.spec.size_bytes) - stored.spec.size_bytes))
        assert self._nbytes == end
        self._file.flush()
        return Weights(
            offset=offset,
            nbytes=self._nbytes,
            sha256=self._hash.hexdigest(),
            tensors=self.tensors,
            places=tuple(places),
            of_function=dict(self.of_function),
        )


def _slabs(array: np.ndarray) -> tuple[bytes, ...]:
    """Checksums of what a view of `array` may begin at; none where it cannot have views."""
    if array.ndim < _PANELS_NDIM or not array.size:
        return ()
    nbytes = array.nbytes // len(array)
    if nbytes % VIEW_ALIGNMENT:
        return ()
    return tuple(hashlib.sha256(part.data).digest() for part in array)


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
        index = self.store.index_of(constant.value.numpy())
        if index not in self.found:
            spec = self.store.spec_of(index)
            self.found[index] = relax.Var(spec.name, relax.TensorType(spec.shape, spec.dtype))
        return self.found[index]


def _nbytes(constant: GenericConst) -> int:
    value = constant.value
    try:
        itemsize = np.dtype(str(value.dtype)).itemsize
    except TypeError:  # a type that numpy has not
        return 0
    return int(np.prod(value.shape)) * itemsize
