"""Is a kernel right on its device? Its results against a reference, before anybody may use it.

The reference is the unscheduled function, computed by LLVM on this machine in float64 (in float32
where the function takes floats apart, which has no float64 form); of attention kernels, which are
written by hand, plain loops. Inputs are drawn anew for every
verification: normal values, then such as a wrong kernel is likely to fall over: zeros of both
signs, large and tiny numbers, runs of equal ones. Memory that a kernel has to write is filled with
a number that no kernel gives, so that a result that is left out shows.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import IRModule, tirx
from tvm.s_tir import dlight

from schedules.attention_space import PAST, Written, reference
from schedules.host import host_rules
from schedules.measure import Outcome
from schedules.trials import parameters, random_array, written
from schedules.tvm_target import cpu_target

Run = Callable[[IRModule, Sequence[np.ndarray]], Outcome]  # what `measure.Pool.outputs` is

# Relative to the largest sum that a result can be a part of: float32 sums of 14336 products in any
# order stay below 1e-5; a kernel that adds in half, or leaves one product out, is above 1e-4.
TOLERANCE = {"float64": 1e-4, "float32": 1e-4, "float16": 4e-3}
_BITWISE = ("reinterpret", "shift_left", "shift_right", "bitwise")
# A buffer whose type is not printed is of float32: the shape, and nothing but a scope behind it.
_ALLOCATED = re.compile(r"(sblock_alloc_buffer\(\((?:[^()]|\([^()]*\))*\))(?=\)|, scope)")
# What memory holds before a kernel has written it.
_FILLING = {"float32": -3.0e38, "float16": -6.0e4, "float64": -3.0e38}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a kernel is right, and if not, why."""

    good: bool
    reason: str = ""
    error: float = 0.0  # the largest, relative


class Reference:
    """What a function computes, by LLVM on this machine."""

    def __init__(self, func: tirx.PrimFunc) -> None:
        """`func`: unscheduled, or written by hand."""
        self.func = func
        self.outputs = written(func)
        self.parameters = parameters(func)
        self.written = Written.of(func)
        if self.written is not None:
            wide: tirx.PrimFunc | None = reference(self.written)
        else:
            wide = None if any(word in func.script() for word in _BITWISE) else _in_float64(func)
        self.is_wide = wide is not None
        self._run = _by_llvm(func if wide is None else wide)

    def draw(self, seed: int, *, edge: bool) -> list[np.ndarray]:
        """Arguments for one run."""
        random = np.random.default_rng(seed)
        arrays = []
        for place, (shape, dtype) in enumerate(self.parameters):
            if place in self.outputs:
                arrays.append(np.full(shape, _FILLING.get(dtype, 0)).astype(dtype))
                continue
            array = random_array(random, shape, dtype)
            if self.written is not None:
                arrays.append(self._of_attention(random, place, array, edge=edge))
            else:
                arrays.append(_edges(random, array) if edge else array)
        return arrays

    def _of_attention(
        self, random: np.random.Generator, place: int, array: np.ndarray, *, edge: bool
    ) -> np.ndarray:
        """A cache that is filled somehow, at the edge all of it; scores that float32 can tell."""
        assert self.written is not None
        if place == PAST:
            most = self.written.most_past
            return np.array([most if edge else random.integers(0, most + 1)], array.dtype)
        return _edges(random, array, large=4) if edge else array

    def compute(self, arrays: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
        """Results by parameter."""
        given = []
        for array in arrays:
            wide = self.is_wide and array.dtype.kind == "f"
            given.append(tvm.runtime.tensor(array.astype("float64") if wide else array))
        self._run(*given)
        return {place: given[place].numpy() for place in self.outputs}


def verify(reference: Reference, mod: IRModule, run: Run, seed: int) -> Verdict:
    """Compare `mod`, a schedule of the reference's function, on the device that `run` is.

    Args:
        reference: of the function.
        mod: the scheduled function.
        run: runs a module on arrays.
        seed: other inputs for every other number.
    """
    worst = 0.0
    for number, edge in enumerate((False, True, False)):
        arrays = reference.draw(1000 * seed + number, edge=edge)
        outcome = run(mod, arrays)
        if outcome.kind != "ok":
            return Verdict(good=False, reason=f"{outcome.kind}: {outcome.error}")
        wanted = reference.compute(arrays)
        for place, want in wanted.items():
            got = outcome.arrays[place]
            error = relative_error(got, want)
            if not error <= TOLERANCE.get(str(got.dtype), 0.0):
                values = "edge values" if edge else "random values"
                return Verdict(
                    good=False, reason=f"wrong on {values}: relative error {error:.1e}", error=error
                )
            worst = max(worst, error)
    return Verdict(good=True, error=worst)


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference over the largest wanted number; integers: any difference at all.

    Infinities and NaN must be where they are wanted.
    """
    if got.dtype.kind != "f":
        return float(np.any(got != want.astype(got.dtype)))
    limit = float(np.finfo(got.dtype).max)
    want = np.where(np.abs(want) > limit, np.copysign(np.inf, want), want.astype(np.float64))
    got = got.astype(np.float64)
    usual = np.isfinite(want)
    near_limit = ~usual | (np.abs(np.where(usual, want, 0)) > 0.5 * limit)
    odd = near_limit & ~((np.isnan(got) == np.isnan(want)) & ((got > 0) == (want > 0)))
    if odd.any() or not np.isfinite(got[~near_limit]).all():
        return math.inf
    plain = ~near_limit
    if not plain.any():
        return 0.0
    scale = max(float(np.abs(want[plain]).max()), 1e-30)
    return float(np.abs(got[plain] - want[plain]).max()) / scale


def _edges(random: np.random.Generator, array: np.ndarray, large: float = 100) -> np.ndarray:
    """Some of `array`'s floats replaced by zeros, large, tiny and equal ones."""
    if array.dtype.kind != "f" or not array.size:
        return array
    flat = array.reshape(-1).copy()
    kind = random.integers(0, 8, flat.size)
    flat[kind == 0] = 0.0
    flat[kind == 1] = -0.0
    flat[kind == 2] *= large
    flat[kind == 3] *= 1e-3
    start = int(random.integers(0, flat.size))
    flat[start : start + flat.size // 16 + 1] = 1.0
    return flat.reshape(array.shape)


def _in_float64(func: tirx.PrimFunc) -> tirx.PrimFunc | None:
    """`func` with every float as float64; None where it cannot be written so."""
    text = func.with_attr("global_symbol", "main").script(show_meta=False)
    for narrow in ("float32", "float16"):
        text = text.replace(narrow, "float64")
    text = _ALLOCATED.sub(r'\1, "float64"', text)
    try:
        wide = tvm.script.from_source(text)
    except Exception:  # noqa: BLE001  (TVM's parser has many errors; float32 is a reference too)
        return None
    return wide if isinstance(wide, tirx.PrimFunc) else None


def _by_llvm(func: tirx.PrimFunc) -> Callable[..., None]:
    target = cpu_target()
    mod = IRModule({"main": func.with_attr("global_symbol", "main")})
    with target:
        mod = dlight.ApplyDefaultSchedule(*host_rules())(mod)
    module = tvm.compile(mod, target=target).jit()
    return module["main"]
