"""Whether a model's outputs stay what they are when its inputs are filled up, or cut.

ONNX Runtime runs the model itself at a few random lengths that are not built: once as it is, once
filled up to the next built length (padding), once in pieces of built lengths (chunking). What the
real elements give must agree within the import check's tolerance. Padding holds for models with
an attention mask, for causal ones and for row-wise ones; chunking only where no element reads
another.

Requires: a model whose length dimension is free.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from hetero_tvm.errors import BadInput, ReferenceRefuses
from hetero_tvm.frontend.evaluate import quiet_options
from hetero_tvm.frontend.input_specs import InputShape, fix_input_shapes
from hetero_tvm.frontend.random_inputs import InputRange, draw_inputs, ranges_at
from hetero_tvm.frontend.read_model import parse_model
from hetero_tvm.frontend.self_check import TOLERANCE, is_close, relative_error
from hetero_tvm.frontend.tensor_spec import TensorSpec
from hetero_tvm.lengths import LengthRules, Way, filled, part, way

_SEED = 2001
_MOST_LENGTHS = 8  # that are tried; each costs some runs of the model in ONNX Runtime
_PER_GAP = 2  # between two built lengths
Arrays = Mapping[str, np.ndarray]
Axes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Border:
    """A model's inputs, and where the length shows in them."""

    inputs: tuple[TensorSpec, ...]  # at some length
    axes: dict[str, tuple[int, ...]]  # of those that carry the length


def border(model: Path, at: Mapping[str, InputShape], longer: Mapping[str, InputShape]) -> Border:
    """Which axes of the model's inputs carry the length.

    Inputs that the user did not name count too, where they share a dimension with one he did.

    Args:
        model: ONNX file.
        at: the inputs' shapes at some length.
        longer: the same at another length.

    Raises:
        BadInput: the model does not take one of these.
    """
    proto = parse_model(model)
    first, second = fix_input_shapes(proto, at), fix_input_shapes(proto, longer)
    axes = {
        a.name: tuple(i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n)
        for a, b in zip(first, second, strict=True)
    }
    return Border(first, {name: found for name, found in axes.items() if found})


def checked_fill(given: Mapping[str, float], found: Border) -> dict[str, float]:
    """What each input that carries the length is filled up with: `given`, else 0.

    Raises:
        BadInput: a name that carries no length, or a value that the input cannot hold.
    """
    dtypes = {spec.name: np.dtype(spec.dtype) for spec in found.inputs}
    for name, value in given.items():
        if name not in found.axes:
            known = ", ".join(found.axes)
            raise BadInput(f"--pad {name}: the length shows in {known}, not in {name}")
        if dtypes[name].kind in "iub" and not _fits(value, dtypes[name]):
            raise BadInput(f"--pad {name}={value:g}: the input is {dtypes[name]}")
    return {name: given.get(name, 0.0) for name in found.axes}


def _fits(value: float, dtype: np.dtype) -> bool:
    if not float(value).is_integer():
        return False
    if dtype.kind == "b":
        return value in (0, 1)
    limits = np.iinfo(dtype)
    return bool(limits.min <= value <= limits.max)


def prove(
    model: Path,
    ranges: Sequence[InputRange],
    input_axes: Axes,
    lengths: Sequence[int],
    fill: Mapping[str, float],
) -> LengthRules:
    """What holds of `model` at lengths that are not built.

    Args:
        model: ONNX file.
        ranges: what its inputs are drawn from, at one of `lengths`.
        input_axes: what `border` says.
        lengths: those that are built.
        fill: what `checked_fill` says.
    """
    trial = _Trial(model, ranges, input_axes, sorted(lengths), fill)
    return trial.rules()


def unproven(input_axes: Axes, fill: Mapping[str, float], why: str) -> LengthRules:
    """Rules that offer nothing."""
    return LengthRules(
        input_axes=input_axes,
        output_axes={},
        fill=fill,
        padding=False,
        padding_words=why,
        chunking=False,
        chunking_words=why,
    )


class _Refuted(Exception):
    """Why something does not hold, in words."""


@dataclasses.dataclass
class _Trial:
    model: Path
    ranges: Sequence[InputRange]
    input_axes: Axes
    lengths: list[int]
    fill: Mapping[str, float]

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(_SEED)
        self.output_axes: dict[str, tuple[int, ...]] = {}
        try:
            self.session = onnxruntime.InferenceSession(
                str(self.model), quiet_options(threads=0), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has no common base class
            raise ReferenceRefuses(
                f"{self.model}: ONNX Runtime cannot load the model, so nothing can be said about "
                f"other lengths (--no-check skips this): {_first_line(error)}"
            ) from error
        self.names = [output.name for output in self.session.get_outputs()]

    def rules(self) -> LengthRules:
        tried = self._between()
        worst = 0.0
        padding = bool(tried)
        said = f"no length lies below {self.lengths[-1]} that is not built"
        try:
            for size in tried:
                worst = max(worst, *(self._pad(size, inputs) for inputs in self._inputs(size)))
            if tried:
                said = f"holds: outputs differ by at most {worst:.1e} relative at {_list(tried)}"
        except _Refuted as refuted:
            padding, said = False, str(refuted)
        self.output_axes = {name: axes for name, axes in self.output_axes.items() if axes}
        chunking, cut_said = False, "needs padding for the last piece"
        if padding:
            chunking, cut_said = self._chunking()
        return LengthRules(
            input_axes=self.input_axes,
            output_axes=self.output_axes,
            fill=self.fill,
            padding=padding,
            padding_words=said,
            chunking=chunking,
            chunking_words=cut_said,
        )

    def _between(self) -> list[int]:
        """Random lengths below each built one and above the one before it."""
        found: list[int] = []
        before = 0
        for length in self.lengths:
            gap = length - before - 1
            if gap:
                drawn = self.rng.choice(gap, min(_PER_GAP, gap), replace=False)
                found += sorted(before + 1 + int(offset) for offset in drawn)
            before = length
        if len(found) > _MOST_LENGTHS:
            kept = np.linspace(0, len(found) - 1, _MOST_LENGTHS).round().astype(int)
            found = [found[i] for i in kept]
        return found

    def _inputs(self, size: int) -> Iterator[dict[str, np.ndarray]]:
        """As drawn; then with full masks and all numbers of one sign, which filling must not beat.

        A zero behind random numbers is rarely their maximum or minimum, so a model that looks for
        those would pass.
        """
        ranges = ranges_at(self.ranges, self.input_axes, size)
        signs = (-1, 1) if any(entry.kind == "normal" for entry in ranges) else (1,)
        for sign in (0, *signs):
            drawn = draw_inputs(ranges, int(self.rng.integers(2**31)))
            for entry in ranges if sign else ():
                if entry.kind == "mask":
                    drawn[entry.name] = np.ones_like(drawn[entry.name])
                elif entry.kind == "normal":
                    drawn[entry.name] = sign * np.abs(drawn[entry.name])
            yield drawn

    def _run(self, inputs: Arrays, size: int) -> dict[str, np.ndarray]:
        try:
            return dict(zip(self.names, self.session.run(self.names, dict(inputs)), strict=True))
        except Exception as error:  # ONNX Runtime has no common base class
            raise _Refuted(
                f"ONNX Runtime cannot run the model at length {size}: {_first_line(error)}"
            ) from error

    def _piece(self, inputs: Arrays, start: int, size: int, length: int) -> dict[str, np.ndarray]:
        """Outputs of elements [start, start + size), filled up to `length`."""
        cut = {
            name: filled(part(array, axes, start, size), axes, length, self.fill[name])
            if (axes := self.input_axes.get(name, ()))
            else array
            for name, array in inputs.items()
        }
        return self._run(cut, length)

    def _pad(self, size: int, inputs: Arrays) -> float:
        """The largest relative error of filling up from `size`; `_Refuted` where it is too much."""
        length = next(length for length in self.lengths if length > size)
        exact, whole = self._run(inputs, size), self._piece(inputs, 0, size, length)
        worst = 0.0
        for name in self.names:
            axes = _axes_of(name, exact[name].shape, whole[name].shape, size, length)
            if self.output_axes.setdefault(name, axes) != axes:
                raise _Refuted(f"output {name} carries the length on other axes at {size}")
            real = part(whole[name], axes, 0, size)
            worst = max(worst, _agree(name, real, exact[name], f"filling up {size} to {length}"))
        return worst

    def _chunking(self) -> tuple[bool, str]:
        """Whether cutting holds, and what was found."""
        whole = [name for name in self.names if len(self.output_axes.get(name, ())) != 1]
        double = [name for name, axes in self.input_axes.items() if len(axes) != 1]
        if whole or double:
            side = f"output {whole[0]}" if whole else f"input {double[0]}"
            return False, f"{side} has no single axis of the length to cut along"
        longest = self.lengths[-1]
        sizes = [longest + int(n) for n in self.rng.integers(1, 2 * longest, 2)]
        try:
            worst = max(
                self._cut(size, found, inputs)
                for size in sizes
                for found in self._ways(size)
                for inputs in self._inputs(size)
            )
        except _Refuted as refuted:
            return False, str(refuted)
        return True, f"holds: outputs differ by at most {worst:.1e} relative at {_list(sizes)}"

    def _ways(self, size: int) -> Iterator[Way]:
        """Cut into few long pieces, and into many short ones."""
        for us in (
            {n: float(n) ** 0.5 for n in self.lengths},
            {n: float(n) ** 2 for n in self.lengths},
        ):
            found = way(size, us, padding=True, chunking=True)
            assert found is not None
            yield found

    def _cut(self, size: int, pieces: Way, inputs: Arrays) -> float:
        exact = self._run(inputs, size)
        outputs = []
        for piece in pieces:
            found = self._piece(inputs, piece.start, piece.size, piece.length)
            outputs.append(
                {n: part(a, self.output_axes[n], 0, piece.size) for n, a in found.items()}
            )
        worst = 0.0
        for name in self.names:
            (axis,) = self.output_axes[name]
            joined = np.concatenate([found[name] for found in outputs], axis)
            worst = max(worst, _agree(name, joined, exact[name], f"cutting {size}"))
        return worst


def _axes_of(
    name: str, exact: Sequence[int], whole: Sequence[int], size: int, length: int
) -> tuple[int, ...]:
    """Axes of an output that carry the length, from its shapes at two lengths."""
    if len(exact) != len(whole):
        raise _Refuted(f"output {name} has another rank at length {length} than at {size}")
    axes = tuple(i for i, (m, n) in enumerate(zip(exact, whole, strict=True)) if m != n)
    if any((exact[i], whole[i]) != (size, length) for i in axes):
        raise _Refuted(
            f"output {name} is {list(exact)} at length {size} and {list(whole)} at {length}: "
            "not the length itself"
        )
    return axes


def _agree(name: str, found: np.ndarray, exact: np.ndarray, what: str) -> float:
    error = relative_error(found, exact)
    if not is_close(found, exact, TOLERANCE):
        raise _Refuted(f"{what} changes output {name} by {error:.1e} relative")
    return error


def _list(sizes: Sequence[int]) -> str:
    texts = [str(size) for size in sorted(set(sizes))]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
