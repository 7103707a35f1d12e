"""Weights of large models: a part of the artefact that is no code.

    main(x): uses constants          main(x, weight_0, weight_1, ..): takes them
                               ▸     [ library | weights | manifest | footer ]

TVM carries constants inside the library: in a model of half a gigabyte linking takes minutes and
ten times the memory. Here every large constant is written to a file as soon as its function is
lowered, equal ones once, and becomes a parameter; the loader gives all functions the same tensors.
What NPU regions hold goes the same way (`npu_weights.lift`), and is mapped.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst
from tvm.relax.expr_functor import PyExprMutator, mutator

from hetero_tvm.frontend.tensor_spec import TensorSpec
from hetero_tvm.weights_layout import Weights, aligned

_LARGE_BYTES = 4096  # smaller constants stay in the code


class WeightStore:
    """Collects weights in a temporary file beside the artefact; leaving the context removes it."""

    def __init__(self, artefact: Path) -> None:
        self._file = tempfile.NamedTemporaryFile(
            prefix=f".{artefact.name}.", suffix=".weights.part", dir=artefact.parent
        )
        self._known: dict[tuple[str, tuple[int, ...], bytes], int] = {}
        self._hash = hashlib.sha256()
        self._nbytes = 0
        self._offsets: list[int] = []
        self.tensors: list[TensorSpec] = []
        self.of_function: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> WeightStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def path(self) -> Path:
        """The file; whole after `description`."""
        return Path(self._file.name)

    def lift(self, name: str, function: relax.Function) -> relax.Function:
        """`function` with its large constants as parameters behind its own."""
        lifter = _Lifter(self)
        body = lifter.visit_expr(function.body)
        self.of_function[name] = tuple(lifter.found)
        params = [*function.params, *lifter.found.values()]
        return relax.Function(params, body, function.ret_ty, function.is_pure, function.attrs)

    def offset_of(self, array: np.ndarray) -> int:
        """Where a weight with these bytes lies in the file; written where there is none yet."""
        return self._offsets[self.index_of(array)]

    def index_of(self, array: np.ndarray) -> int:
        """The number of a weight with these bytes; written where there is none yet."""
        array = np.ascontiguousarray(array)
        key = (array.dtype.name, array.shape, hashlib.sha256(array.data).digest())
        if key not in self._known:
            self._known[key] = len(self.tensors)
            self._offsets.append(self._nbytes)
            self.tensors.append(
                TensorSpec(
                    name=f"weight_{len(self.tensors)}", dtype=array.dtype.name, shape=array.shape
                )
            )
            self._write(array.data)
            self._write(bytes(aligned(array.nbytes) - array.nbytes))
        return self._known[key]

    def _write(self, data: Any) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._nbytes += memoryview(data).nbytes

    def description(self, offset: int) -> Weights:
        """What to say of them where they begin at `offset`; the file is flushed."""
        self._file.flush()
        return Weights(
            offset=offset,
            nbytes=self._nbytes,
            sha256=self._hash.hexdigest(),
            tensors=tuple(self.tensors),
            of_function=dict(self.of_function),
        )


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
            spec = self.store.tensors[index]
            self.found[index] = relax.Var(spec.name, relax.TensorType(spec.shape, spec.dtype))
        return self.found[index]


def _nbytes(constant: GenericConst) -> int:
    value = constant.value
    try:
        itemsize = np.dtype(str(value.dtype)).itemsize
    except TypeError:  # a type that numpy has not
        return 0
    return int(np.prod(value.shape)) * itemsize
